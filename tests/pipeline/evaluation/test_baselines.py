"""Baselines spend what they say, and are as strong as they can be within it."""

import os
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.baseline_codecs import (
    CODECS,
    Codec,
    CodecAtSameBits,
    decode,
    encode,
    encode_within,
    missing_codec,
    to_pictures,
    without_sei,
)
from pipeline.evaluation.baseline_resize import ShrinkAndEnlarge, run_bounds
from pipeline.tokenizers.facts import Facts, vidtok_facts
from tests.vidtok.deterministic import synthetic_video
from vidtok.presets import PRESETS

FSQ = vidtok_facts(PRESETS["vidtok_fsq_causal_488_262144_tiny"])
KL = vidtok_facts(PRESETS["vidtok_kl_causal_488_8chn_tiny"])
NONCAUSAL = vidtok_facts(PRESETS["vidtok_fsq_noncausal_488_262144"])


def clip(frames: int = 9, size: int = 64) -> torch.Tensor:
    return synthetic_video(1, frames, size, size)


def pixels(video: torch.Tensor) -> np.ndarray:
    return ((video[0] + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def pictures() -> list[av.VideoFrame]:
    return to_pictures(pixels(clip()))


@given(length=st.integers(1, 70), f=st.sampled_from([2, 4, 8]))
def test_runs_cover_the_clip_with_one_per_latent_frame(length: int, f: int) -> None:
    bounds = run_bounds(length, f)
    sizes = [b - a for a, b in pairwise(bounds)]
    assert (bounds[0], bounds[-1]) == (0, length)
    assert len(sizes) == -(-length // f)
    assert 1 <= sizes[0] <= f
    assert set(sizes[1:]) <= {f}


def test_the_first_frame_of_a_causal_clip_stands_alone() -> None:
    assert run_bounds(17, 4) == [0, 1, 5, 9, 13, 17]
    assert run_bounds(16, 4) == [0, 4, 8, 12, 16]


def test_shrinking_keeps_what_the_grid_can_hold_and_counts_its_cells() -> None:
    level = torch.linspace(-0.6, 0.6, 17).view(1, 1, 17, 1, 1)
    brightening = level.expand(1, 3, 17, 32, 32)
    back = ShrinkAndEnlarge(FSQ, "shrink").reconstruct(brightening, "x")
    assert back.bits == 5 * 4 * 4 * 24 > back.coded_bits
    assert back.video.shape == brightening.shape
    torch.testing.assert_close(back.video[:, :, :15], brightening[:, :, :15], atol=0.008, rtol=0)


@pytest.mark.parametrize(("config", "frames"), [(FSQ, 17), (NONCAUSAL, 16)])
def test_shrinking_is_stronger_than_plain_trilinear(config: object, frames: int) -> None:
    video = clip(frames)
    grid = (-(-frames // 4), 8, 8)
    plain = torch.nn.functional.interpolate(
        torch.nn.functional.adaptive_avg_pool3d(video, grid), video.shape[2:], mode="trilinear"
    )
    ours = ShrinkAndEnlarge(config, "shrink").reconstruct(video, "x").video
    assert (ours - video).square().mean() < (plain - video).square().mean()


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_is_the_finest_within_the_budget(name: str) -> None:
    assert missing_codec(name) is None
    codec, frames = CODECS[name], pictures()
    rates = {q: encode(frames, codec, q).bits for q in (20, 30, codec.coarsest)}
    assert rates[20] > rates[30] > rates[codec.coarsest]
    stream = encode_within(frames, codec, rates[30])
    finer = next(q for q in range(30, 0, -1) if encode(frames, codec, q).bits > rates[30])
    assert encode(frames, codec, finer + 1).bits == stream.bits <= rates[30]
    back = decode(stream, codec)
    original = pixels(clip())
    assert back.shape == original.shape
    assert np.abs(back.astype(int) - original).mean() < 12


@pytest.mark.parametrize("name", CODECS)
def test_a_budget_out_of_reach_gives_the_coarsest_and_its_true_bits(name: str) -> None:
    codec, frames = CODECS[name], pictures()
    stream = encode_within(frames, codec, budget_bits=8)
    assert stream.bits == encode(frames, codec, codec.coarsest).bits > 8


@pytest.mark.parametrize(("facts", "cell"), [(FSQ, 18), (KL, 8 * 16)])
def test_a_codec_keeps_to_the_bits_of_its_tokenizer(facts: Facts, cell: int) -> None:
    video = clip(17, 64)
    back = CodecAtSameBits(CODECS["h264"], facts, float(cell), "h264").reconstruct(video, "x")
    assert back.video.shape == video.shape
    assert 0.5 * 5 * 8 * 8 * cell < back.bits <= 5 * 8 * 8 * cell
    assert back.coded_bits == back.bits


def test_x264_says_nothing_of_itself_in_what_is_counted() -> None:
    packets = encode(pictures(), CODECS["h264"], 30).packets
    assert b"x264" not in b"".join(packets)
    sei, picture = b"\0\0\0\1\x06hello", b"\0\0\1\x65picture"
    assert without_sei(sei + picture) == picture


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no such call")
@pytest.mark.parametrize("name", CODECS)
def test_encoding_leaves_the_thread_its_scheduling(name: str) -> None:
    """As root, SVT-AV1 makes its caller a real-time thread, which starves all other processes."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    encode(to_pictures(np.zeros((5, 64, 64, 3), np.uint8)), CODECS[name], 40)
    assert (os.sched_getscheduler(0), os.sched_getparam(0)) == before


def test_a_codec_that_the_build_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = Codec("VP0", "libvp0", "vp0", 63, lambda q: {})
    monkeypatch.setitem(CODECS, "vp0", lacking)
    assert "no libvp0" in str(missing_codec("vp0"))
