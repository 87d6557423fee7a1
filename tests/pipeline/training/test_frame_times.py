"""The choice of frames, against the reference's and against its own rules."""

import json
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.windows import choose_frames
from tests.assets import GOLDENS

CASES = json.loads((GOLDENS / "frames.json").read_text())
COUNTS = st.integers(1, 400)
RATES = st.floats(0.5, 240)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['total_frames']}-{c['sample_fps']}")
def test_frames_are_the_references(case: dict):
    start = random.Random(5) if case["start_index"] is None else case["start_index"]
    assert case["frames"] == choose_frames(
        case["total_frames"],
        case["video_fps"],
        case["sample_num_frames"],
        case["sample_fps"],
        start,
    )


@given(COUNTS, RATES, COUNTS, RATES, st.integers(0, 2**32))
def test_frames_grow_and_stay_in_the_video(
    total: int, fps: float, count: int, sample_fps: float, seed: int
):
    frames = choose_frames(total, fps, count, sample_fps, random.Random(seed))
    assert len(frames) == min(count, total)
    assert frames[0] >= 0
    assert frames[-1] < total
    assert all(a < b for a, b in pairwise(frames))


@given(COUNTS, RATES, st.integers(2, 60), RATES, st.integers(0, 2**32))
def test_steps_are_those_of_the_rate_or_as_long_as_fits(
    total: int, fps: float, count: int, sample_fps: float, seed: int
):
    frames = choose_frames(total, fps, count, sample_fps, random.Random(seed))
    wanted = max(1, round(fps / sample_fps))
    steps = [b - a for a, b in pairwise(frames)]
    if (count - 1) * wanted + 1 < total:
        assert set(steps[:-1]) <= {wanted}
        assert steps[-1] in (wanted, wanted + 1)
    elif count <= total:
        assert (frames[0], frames[-1]) == (0, total - 1)
        assert max(steps) - min(steps) <= 1


def test_a_rate_above_the_sources_takes_every_frame():
    """The reference stops here: half the rate asked for rounds to a step of nothing."""
    assert choose_frames(50, 8.0, 5, 30.0, 10)[:4] == [10, 11, 12, 13]


def test_the_start_reaches_all_places():
    starts = {choose_frames(12, 30, 5, 15, random.Random(seed))[0] for seed in range(100)}
    assert starts == {0, 1, 2}
