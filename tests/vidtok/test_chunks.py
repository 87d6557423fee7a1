"""A clip in chunks is the clip: for every length, every chunk and every set of levels."""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import Tokenizer

FACTORS = {
    2: {"tempo_ds": (1,), "tempo_us": (2,)},
    4: {},
    8: {"tempo_ds": (0, 1, 2), "tempo_us": (1, 2, 3)},
}


@cache
def model_of(factor: int) -> Tokenizer:
    return small("causal_v1_1", "kl", **FACTORS[factor])


@settings(max_examples=10)  # an example takes a tenth of a second
@given(st.sampled_from(sorted(FACTORS)), st.integers(1, 40), st.integers(1, 4))
def test_chunked_equals_whole(factor: int, frames: int, chunks: int) -> None:
    model, chunk = model_of(factor), factor * chunks
    video = synthetic_video(1, frames, 16, 16, seed=frames)
    whole, parts = model.encode(video), model.encode(video, chunk_frames=chunk)
    assert whole.latent.shape[2] == -(-frames // factor)
    torch.testing.assert_close(parts.mean, whole.mean, rtol=0, atol=1e-4)
    torch.testing.assert_close(parts.logvar, whole.logvar, rtol=0, atol=1e-4)
    decoded = model.decode(whole.mean, num_frames=frames)
    assert decoded.shape == video.shape
    again = model.decode(whole.mean, num_frames=frames, chunk_frames=chunk)
    torch.testing.assert_close(again, decoded, rtol=0, atol=1e-4)


def test_a_chunked_clip_leaves_no_state_behind() -> None:
    model = model_of(4)
    one, other = (synthetic_video(1, 21, 16, 16, seed=s) for s in (1, 2))
    expected = model.encode(other, chunk_frames=4).latent
    model.encode(one, chunk_frames=8)
    model.decode(expected, chunk_frames=8, as_reference=True)
    assert torch.equal(model.encode(other, chunk_frames=4).latent, expected)


@settings(max_examples=10)  # an example takes a tenth of a second
@given(
    st.sampled_from(sorted(FACTORS)),
    st.integers(1, 30),
    st.integers(1, 3),
    st.lists(st.integers(1, 9), min_size=30, max_size=30),
)
def test_frames_that_come_in_pieces_are_the_clip(
    factor: int, frames: int, chunks: int, pieces: list[int]
) -> None:
    """However the frames arrive, the encoder is given the same chunks: not a bit differs."""
    model, chunk = model_of(factor), factor * chunks
    video = synthetic_video(2, frames, 16, 16, seed=frames)
    stream = model.encode_stream(frames, chunk)
    found = [stream.push(piece) for piece in video.split(pieces_of(frames, pieces), 2)]
    means = [encoded.mean for encoded in found if encoded is not None]
    assert torch.equal(torch.cat(means, 2), model.encode(video, chunk_frames=chunk).mean)
    with pytest.raises(ValueError, match="more frames"):
        stream.push(video[:, :, :1])


def pieces_of(total: int, lengths: list[int]) -> list[int]:
    """Return the lengths up to a total."""
    taken: list[int] = []
    for length in lengths:
        if left := total - sum(taken):
            taken.append(min(length, left))
    return taken


def test_two_streams_of_one_model_may_interleave() -> None:
    model = model_of(4)
    clips = [synthetic_video(1, 21, 16, 16, seed=s) for s in (1, 2)]
    streams = [model.encode_stream(21, 4) for _ in clips]
    found: list[list[torch.Tensor]] = [[], []]
    for start in range(0, 21, 3):
        for stream, clip, latents in zip(streams, clips, found, strict=True):
            if (encoded := stream.push(clip[:, :, start : start + 3])) is not None:
                latents.append(encoded.latent)
    for clip, latents in zip(clips, found, strict=True):
        assert torch.equal(torch.cat(latents, 2), model.encode(clip, chunk_frames=4).latent)


@pytest.mark.parametrize("tile", [None, 8])
@pytest.mark.parametrize("first", [4, 5])  # frames that wait for a chunk, and a chunk
@pytest.mark.parametrize("other", [(2, 16, 16), (1, 24, 16), (1, 16, 24)])
def test_pieces_of_another_size_are_refused(
    other: tuple[int, int, int], first: int, tile: int | None
) -> None:
    model = model_of(4)
    video = synthetic_video(1, 9, 16, 16)
    stream = model.encode_stream(9, 4, tile=tile)
    parts = [stream.push(video[:, :, :first])]
    B, H, W = other
    with pytest.raises(ValueError, match=r"push: frames of B, H, W = \(.*\): must be \(1, 16, 16"):
        stream.push(synthetic_video(B, 4, H, W))
    parts.append(stream.push(video[:, :, first:]))  # the stream continues
    latent = torch.cat([part.latent for part in parts if part is not None], 2)
    whole = model.encode(video, chunk_frames=4).latent
    torch.testing.assert_close(latent, whole, rtol=0, atol=1e-4)


def test_leaving_out_the_copies_in_front_changes_nothing() -> None:
    """The stream skips copies of frame 0 that the reference computes: as_reference keeps them."""
    for factor in FACTORS:
        model = model_of(factor)
        video = synthetic_video(1, 2 * factor + 1, 16, 16)
        with_copies = model.encode(video, as_reference=True).mean
        torch.testing.assert_close(model.encode(video).mean, with_copies, rtol=0, atol=1e-4)


@pytest.mark.parametrize("frames", [18, 19, 20])
def test_the_reference_s_tiling_differs_and_is_only_had_by_asking(frames: int) -> None:
    model = model_of(4)
    video = synthetic_video(1, frames, 16, 16)
    tiled = model.encode(video, chunk_frames=16, as_reference=True).latent
    assert tiled.shape[2] == model.encode(video, chunk_frames=16).latent.shape[2] + 1


@pytest.mark.parametrize(("chunk", "text"), [(6, "multiple of 4; use 4"), (2, "use 4")])
def test_a_chunk_that_is_no_multiple_is_refused(chunk: int, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        model_of(4).encode(synthetic_video(1, 17, 16, 16), chunk_frames=chunk)


@pytest.mark.parametrize("network", ["causal_v1_0", "noncausal"])
def test_other_networks_do_not_take_chunks(network: str) -> None:
    model = small(network)
    frames = 17 if model.config.causal else 16
    video = synthetic_video(1, frames, 16, 16)
    with pytest.raises(ValueError, match=r"only v1\.1 networks work in chunks"):
        model.encode(video, chunk_frames=4)
    with pytest.raises(ValueError, match=r"only v1\.1 networks work in chunks"):
        model.encode_stream(frames, 4)
    with pytest.raises(ValueError, match=r"only v1\.1 networks work in chunks"):
        model.decode(model.encode(video).latent, chunk_frames=4)
