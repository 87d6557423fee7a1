"""Windows from pictures that say where and when they are: red the frame, green the row, blue the
column."""

import random

import numpy as np
import pytest
from torch import Tensor

from pipeline.training.segments import Segment
from pipeline.training.windows import draw_window
from tests.pipeline.training.sources import source


def telling(num: int, height: int, width: int, fps: float = 30.0) -> Segment:
    frames = np.zeros((num, height, width, 3), np.uint8)
    frames[..., 0] = np.arange(num)[:, None, None]
    frames[..., 1] = np.arange(height)[None, :, None]
    frames[..., 2] = np.arange(width)
    return Segment(key="k", sample=0, index=0, fps=fps, frames=frames)


def draws(segment: Segment, count: int = 200, **changes: object) -> list[Tensor]:
    config = source(height=16, width=20, short_side=32, **changes)
    return [draw_window(segment, config, random.Random(seed)) for seed in range(count)]


def test_a_window_is_a_place_and_a_run_of_frames():
    for clip in draws(telling(100, 32, 64), flip=False, fps=[3]):
        time, row, column = (int(v) for v in clip[0, 0, 0])
        assert clip.shape == (5, 16, 20, 3)
        assert clip[:, 3, 7, 0].tolist() == [time, time + 10, time + 20, time + 30, time + 41]
        assert (clip[..., 0] == clip[:, :1, :1, 0]).all()
        assert clip[2, :, 0, 1].tolist() == list(range(row, row + 16))
        assert clip[2, 0, :, 2].tolist() == list(range(column, column + 20))


def test_windows_reach_every_place():
    firsts = [clip[0, 0, 0].tolist() for clip in draws(telling(30, 20, 24), 400, flip=False)]
    _, rows, columns = (set(values) for values in zip(*firsts, strict=True))
    assert rows == set(range(5))
    assert columns == set(range(5))


def test_half_of_the_windows_are_mirrored():
    clips = draws(telling(30, 32, 32))
    mirrored = [clip for clip in clips if clip[0, 0, 0, 2] > clip[0, 0, -1, 2]]
    assert 70 < len(mirrored) < 130
    column = int(mirrored[0][0, 0, 0, 2])
    assert mirrored[0][0, 0, :, 2].tolist() == list(range(column, column - 20, -1))
    assert all(clip[0, 0, 0, 1] < clip[0, -1, 0, 1] for clip in clips)


def test_a_rate_is_drawn_per_window():
    clips = draws(telling(200, 32, 32), fps=[3, 10, 1000])
    steps = [int(clip[1, 0, 0, 0] - clip[0, 0, 0, 0]) for clip in clips]
    assert set(steps) == {10, 3, 1}
    assert all(steps.count(step) > 40 for step in (10, 3, 1))


def test_a_scaled_window_shows_more_of_the_picture():
    spans = [
        int(clip[0, -1, 0, 1]) - int(clip[0, 0, 0, 1])
        for clip in draws(telling(30, 64, 64), flip=False, min_scale=0.5)
    ]
    assert all(
        clip.shape == (5, 16, 20, 3) for clip in draws(telling(30, 64, 64), 9, min_scale=0.5)
    )
    assert min(spans) == pytest.approx(15, abs=1)
    assert max(spans) == pytest.approx(30, abs=2)


def test_a_window_is_never_larger_than_the_picture():
    for clip in draws(telling(30, 20, 20), 50, flip=False, min_scale=0.1):
        assert clip.shape == (5, 16, 20, 3)
        assert int(clip[0, 0, -1, 2]) - int(clip[0, 0, 0, 2]) == 19


def test_a_short_video_is_shown_faster_then_held():
    (fast,) = draws(telling(9, 32, 32), 1, fps=[3])
    assert fast[:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8]
    (held,) = draws(telling(3, 32, 32), 1, fps=[3])
    assert held[:, 0, 0, 0].tolist() == [0, 1, 2, 2, 2]
    (still,) = draws(telling(1, 32, 32), 1)
    assert (still == still[:1]).all()


def test_a_window_shares_no_memory_with_its_segment():
    segment = telling(30, 32, 32)
    (clip,) = draws(segment, 1)
    clip[:] = 255
    assert segment.frames.max() == 31
