"""Frames and clips are those of the corpus job, and by protocol those of the reference."""

import numpy as np
import pytest
import torch

from pipeline.decode import ClipRule, Decoder
from pipeline.evaluation.clips import ClipFiller, frame_rule, frames, interval
from pipeline.evaluation.config import EvaluatedClip
from pipeline.records import Sample
from tests.assets import BIKES, VIDTOK_EXAMPLE, GoodVideo

REFERENCE = {"choice": "interval", "fps": 30.0, "height": 64, "width": 64}


def sample(video: GoodVideo) -> Sample:
    return Sample(key=video.name, video=str(video.path), video_name=video.name)


def decoded(video: GoodVideo, clip: EvaluatedClip) -> list[np.ndarray]:
    with Decoder(frame_rule(clip)) as decoder:
        return list(frames(decoder, sample(video), "unit", clip))


def numbered(count: int) -> list[np.ndarray]:
    return [np.full((2, 2, 3), n, np.float32) for n in range(count)]


def cut(length: int | None, count: int, **settings: object) -> list[list[int]]:
    """Return the numbers of the frames in each clip of a video of `count` frames."""
    cutter = ClipFiller(length, EvaluatedClip(**settings))
    clips = [cutter.add(frame) for frame in numbered(count)]
    found = [clip for clip in [*clips, cutter.rest()] if clip is not None]
    return [((clip[0, 0, :, 0, 0] + 1) * 127.5).round().int().tolist() for clip in found]


@pytest.mark.parametrize(
    ("source_fps", "fps", "step"),
    [
        (25.0, 30, 1),
        (25.0, 8, 3),
        (25.0, 3, 8),
        (29.97, 8, 4),
        (60.0, 30, 2),
        (75.0, 30, 2),
        (10.0, 30, 1),
        (25.0, None, 1),
    ],
)
def test_the_step_between_frames_is_the_references(
    source_fps: float, fps: float | None, step: int
) -> None:
    assert interval(source_fps, fps) == step


def test_clips_follow_each_other_and_the_rest_goes_as_asked() -> None:
    assert cut(3, 7) == [[0, 1, 2], [3, 4, 5]]
    assert cut(3, 7, short="pad") == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert cut(3, 6, short="pad") == [[0, 1, 2], [3, 4, 5]]
    assert cut(3, 7, short="pad", per_video=1) == [[0, 1, 2]]
    assert cut(3, 2) == []


def test_a_whole_video_ends_where_its_last_full_chunk_does() -> None:
    assert cut(None, 10, chunk_frames=4) == [list(range(9))]
    assert cut(None, 9, chunk_frames=4) == [list(range(9))]
    assert cut(None, 8, chunk_frames=4) == [list(range(5))]
    assert cut(None, 4, chunk_frames=4) == [], "skipped, as the reference does"


@pytest.mark.parametrize(
    ("length", "means"),
    [(17, (-0.5923659205, -0.5901683569)), (16, (-0.5923592448, -0.5903286934))],
)
def test_clips_are_what_the_reference_reads(length: int, means: tuple[float, float]) -> None:
    clip = EvaluatedClip(**REFERENCE, per_video=2)
    cutter = ClipFiller(length, clip)
    clips = [cutter.add(frame) for frame in decoded(VIDTOK_EXAMPLE, clip)]
    found = [clip for clip in clips if clip is not None]
    assert [tuple(clip.shape) for clip in found] == [(1, 3, length, 64, 64)] * 2
    assert [float(clip.mean()) for clip in found] == pytest.approx(means, abs=1e-6)


def test_by_time_the_clips_are_those_of_the_corpus_job() -> None:
    clip = EvaluatedClip(fps=8.0, height=32, width=40)
    rule = ClipRule(frames=17, height=32, width=40, fps=8.0, short="drop", resize="float32")
    with Decoder(rule) as decoder:
        job = [f for _, f in decoder.decode(sample(BIKES), "unit") if f is not None]
    cutter = ClipFiller(17, clip)
    ours = [cutter.add(frame) for frame in decoded(BIKES, clip)]
    pixels = [(clip[0].permute(1, 2, 3, 0) + 1) * 127.5 for clip in ours if clip is not None]
    assert len(pixels) == len(job) == 4
    for one, other in zip(pixels, job, strict=True):
        torch.testing.assert_close(one, torch.from_numpy(other), atol=2e-4, rtol=0)
