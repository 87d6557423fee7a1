"""What a tokenizer gets of a clip: area means as float64 gives them, and every n-th frame."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pipeline.tokenizers.inputs import area_means, input_frames
from tests.pipeline.fakes import KL

shapes = st.tuples(*(st.integers(1, high) for high in (2, 3, 5, 7)))


def block_means(frames: NDArray[Any], scale: int) -> NDArray[np.float64]:
    """Return the means of blocks of [N, T, H, W, 3] in float64."""
    n, t, height, width, _ = frames.shape
    blocks = frames.astype(np.float64).reshape(
        n, t, height // scale, scale, width // scale, scale, 3
    )
    return blocks.mean((3, 5))


@settings(max_examples=60)
@given(st.data(), shapes, st.integers(1, 4))
def test_means_of_uint8_are_exact(
    data: st.DataObject, shape: tuple[int, int, int, int], scale: int
) -> None:
    n, t, h, w = shape
    frames = data.draw(arrays(np.uint8, (n, t, h * scale, w * scale, 3)))
    found = area_means(torch.from_numpy(frames), scale)
    assert found.dtype == torch.float32
    # Sums of at most 16 bytes are exact in float64, and so is the float32 nearest to their mean.
    sums = block_means(frames, scale) * scale**2
    np.testing.assert_array_equal(found, np.float32(np.rint(sums)) / np.float32(scale**2))


@settings(max_examples=40)
@given(st.integers(0, 1 << 32), shapes, st.integers(1, 4))
def test_means_of_float32_are_near_and_do_not_depend_on_memory(
    seed: int, shape: tuple[int, int, int, int], scale: int
) -> None:
    n, t, h, w = shape
    rng = np.random.default_rng(seed)
    frames = (rng.random((n, t, h * scale, w * scale, 3)) * 255).astype(np.float32)
    before = frames.copy()
    found = area_means(torch.from_numpy(frames), scale)
    np.testing.assert_allclose(found, block_means(frames, scale), rtol=5e-7)
    np.testing.assert_array_equal(frames, before)
    channels_first = torch.from_numpy(frames).movedim(-1, 2).contiguous().movedim(2, -1)
    assert torch.equal(area_means(channels_first, scale), found)


def test_the_brightest_block_does_not_overflow() -> None:
    white = torch.full((1, 1, 12, 12, 3), 255, dtype=torch.uint8)
    for scale in (1, 2, 3, 4):
        assert area_means(white, scale).unique().tolist() == [255.0]


def test_a_size_that_is_no_multiple_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="unflatten"):
        area_means(torch.zeros(1, 1, 6, 9, 3), 2)


@settings(max_examples=40)
@given(st.data(), st.integers(1, 12), st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_frames_of_a_column(
    data: st.DataObject, length: int, scale: int, every: int, floats: bool
) -> None:
    clip: NDArray[Any] = data.draw(arrays(np.uint8, (length, 2 * scale, 3 * scale, 3)))
    if floats:
        clip = clip.astype(np.float32) / 2
    clip.setflags(write=False)  # as Ray hands it out
    column = replace(KL, scale=scale, every=every)
    found = input_frames(clip, column)
    assert found.dtype == np.uint8
    assert found.shape[:3] == column.input_shape(*clip.shape[:3])
    expected = [clip[n] for n in range(length) if n % every == 0]
    means = block_means(np.stack(expected)[None], scale)[0]
    assert np.abs(found - means).max() <= 0.5 + 1e-4
