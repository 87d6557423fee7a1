"""Latents at 5 to 8 bits come back within half a step, and quantize to the same cells again."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from pipeline.dataset.cells import clip_rows, latent_values, row_cells, to_tensor
from pipeline.dataset.quantized import (
    column_scales,
    dequantize,
    quantize,
    row_scale,
    scale_fault,
)
from pipeline.dataset.schema import clip_schema
from tests.pipeline.units import KL, make_clip

COLUMN = replace(KL, dtype="uint8", bits=8, logvar=False)
LARGEST = float(np.finfo(np.float32).max)
BITS = st.integers(5, 8)
SHAPES = array_shapes(min_dims=3, max_dims=5, max_side=4)


def latents(values: st.SearchStrategy[float]) -> st.SearchStrategy[NDArray[Any]]:
    """Return latents [N, C, …]."""
    return arrays(np.float32, SHAPES, elements=values)


def back(cells: NDArray[np.uint8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    values = cells.astype(np.float32)
    for clip, scale in zip(values, scales, strict=True):
        dequantize(clip, scale)
    return values


def by_channel(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(*values.shape[:2], -1)


@given(latents(st.floats(-LARGEST / 4, LARGEST / 4, width=32)), BITS)
def test_each_value_comes_back_within_half_a_step(made: NDArray[Any], bits: int) -> None:
    cells, scales = quantize(made, bits)
    assert (cells.dtype, cells.shape) == (np.uint8, made.shape)
    assert (scales.dtype, scales.shape) == (np.float32, (len(made), 2 * made.shape[1]))
    assert cells.max() < 1 << bits
    column = replace(COLUMN, bits=bits)
    assert [scale_fault(scale, made.shape[1], column) for scale in scales] == [None] * len(made)
    values = by_channel(made.astype(np.float64))
    low, step = np.split(scales.astype(np.float64)[:, :, np.newaxis], 2, axis=1)
    np.testing.assert_array_equal(low, values.min(-1, keepdims=True))
    span = values.max(-1, keepdims=True) - low
    np.testing.assert_allclose(step, span / ((1 << bits) - 1), rtol=1e-6, atol=2e-38)
    # Besides half a step, float32 rounds the difference, the product and the sum.
    rounding = np.finfo(np.float32).eps * (np.abs(low) + span) * 2 + 1e-35
    assert (np.abs(by_channel(back(cells, scales)) - values) <= step / 2 + rounding).all()


@given(latents(st.floats(-100, 100, width=16)), BITS)
def test_what_came_back_has_the_same_cells(made: NDArray[Any], bits: int) -> None:
    """Of latents with the precision of float16, whose range float32 resolves into steps."""
    cells, scales = quantize(made, bits)
    again, _ = quantize(back(cells, scales), bits)
    np.testing.assert_array_equal(again, cells)


@given(st.floats(-LARGEST, LARGEST, width=32), BITS)
def test_a_channel_of_one_value_is_exact(value: float, bits: int) -> None:
    made = np.full((1, 2, 3), value, np.float32)
    made[0, 1] = [0, 1, 2]
    cells, scales = quantize(made, bits)
    assert not cells[0, 0].any()
    np.testing.assert_array_equal(back(cells, scales)[0, 0], made[0, 0])
    assert scales[0, 2] == 0


def test_a_clip_does_not_depend_on_its_neighbours() -> None:
    made = np.random.default_rng(0).standard_normal((3, 4, 2, 5), np.float32)
    made[1] *= 100
    cells, scales = quantize(made, 8)
    alone, scale = quantize(made[2:], 8)
    np.testing.assert_array_equal(cells[2:], alone)
    np.testing.assert_array_equal(scales[2:], scale)


@pytest.mark.parametrize("values", [[np.nan, 1], [np.inf, 1], [-np.inf, 1], [-LARGEST, LARGEST]])
def test_a_range_that_float32_does_not_hold_is_a_fault(values: list[float]) -> None:
    _, [scale] = quantize(np.array([[values]], np.float32), 8)
    assert scale_fault(scale, 1, COLUMN) == "kl_scale: NaN or infinity"


@pytest.mark.parametrize(
    ("scale", "fault"),
    [
        ([0.0, 0.0, 1.0], "kl_scale: 3 numbers, 2 channels take 4"),
        ([], "kl_scale: 0 numbers, 2 channels take 4"),
        ([0.0, 0.0, 1.0, np.nan], "kl_scale: NaN or infinity"),
        ([0.0, None, 1.0, 1.0], "kl_scale: NaN or infinity"),
        ([0.0, 0.0, 1.0, 1e38], "kl_scale: NaN or infinity"),
        ([0.0, 0.0, 1.0, -0.5], "kl_scale: the step -0.5 is negative"),
    ],
)
def test_a_wrong_scale_is_named(scale: list[Any], fault: str) -> None:
    good = [0.0, -1.0, 0.0, 0.5]
    row = {"kl_shape": [2, 1, 1, 1], "kl_scale": scale}
    with pytest.raises(pa.ArrowInvalid, match=f"^column {fault}$"):
        row_scale(row, COLUMN)
    scales = pa.chunked_array([[good], [good, scale]], pa.list_(pa.float32()))
    with pytest.raises(pa.ArrowInvalid, match=f"^column {fault}$"):
        column_scales(scales, 2, COLUMN)
    np.testing.assert_array_equal(column_scales(scales[1:2], 2, COLUMN), [good])


def test_rows_keep_cells_and_scales() -> None:
    made = np.random.default_rng(0).standard_normal((3, 4, 2, 2, 5), np.float32)
    cells, scales = quantize(made, 8)
    clips = [make_clip("u", n) for n in range(3)]
    schema = clip_schema([COLUMN])
    rows = clip_rows(clips, {"kl": cells, "kl_scale": scales}, schema)
    metadata = schema.metadata
    assert (metadata[b"vidtok.kl.scale"], metadata[b"vidtok.kl.bits"]) == (b"kl_scale", b"8")
    for row, wanted in zip(rows.to_pylist(), back(cells, scales), strict=True):
        np.testing.assert_array_equal(latent_values(row, COLUMN), wanted)
        stored = row_cells(row["kl"], row["kl_shape"], COLUMN)
        tensor = to_tensor(stored, COLUMN, row_scale(row, COLUMN))
        assert torch.equal(tensor, torch.from_numpy(wanted))
    assert row_scale({}, KL) is None
