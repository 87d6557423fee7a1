"""Times of frames: against the rules one by one, and against a small model for any clock."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode.container.timeline import DecodingClock, Timeline
from pipeline.decode.damage import DecodeFault

STAMPS = st.none() | st.integers(-(2**40), 2**40)


class Frame(NamedTuple):
    pts: int | None
    dts: int | None
    duration: int | None


def place(*frames: tuple[int | None, int | None, int | None], sought: bool = False) -> list[float]:
    timeline = Timeline(Fraction(1, 100), Fraction(1, 25), sought)
    return [float(d.start_s) for d in timeline.displayed(Frame(*frame) for frame in frames)]


def clocked(*stamps: int) -> list[float]:
    return place(*((stamp, stamp, 4) for stamp in stamps))


def test_presentation_timestamps_count_wherever_they_start():
    assert place((-50, 7, 4), (-46, 8, 4), (10, 9, 4)) == [-0.5, -0.46, 0.1]


def test_without_one_the_decoding_timestamp_counts_then_the_end_of_the_frame_before():
    assert place((None, 4, 4), (8, 8, 4), (None, None, 4), (None, None, None)) == [
        0.04,
        0.08,
        0.12,
        0.16,
    ]


def test_a_video_without_any_timestamp_runs_at_its_nominal_rate():
    assert place(*[(None, None, None)] * 3) == [0.0, 0.04, 0.08]


def test_of_frames_at_one_time_the_last_has_it_and_no_other_frame_moves():
    assert clocked(0, 4, 4, 8) == [0.0, 0.02, 0.04, 0.08]
    assert clocked(0, 4, 4, 4, 8) == [0.0, 0.02, 0.03, 0.04, 0.08]
    assert clocked(0, 0, 4, 8) == [0.0, 0.02, 0.04, 0.08], "the first frame is the beginning"


def test_one_frame_with_a_wrong_time_moves_alone():
    assert clocked(0, 4, 5000, 12, 16) == [0.0, 0.04, 0.08, 0.12, 0.16]
    assert clocked(0, 4, 8, -5000, 16, 20) == [0.0, 0.04, 0.08, 0.12, 0.16, 0.20]
    assert clocked(0, 4, 8, 6, 12) == [0.0, 0.04, 0.05, 0.06, 0.12]


def test_frames_after_a_small_step_back_wait_for_the_clock():
    assert clocked(0, 4, 8, 12, 0, 4, 16) == [0.0, 0.04, 0.08, 0.12, 0.12004, 0.14002, 0.16]


def test_a_clock_that_starts_over_continues_from_where_it_was():
    assert clocked(9000, 9004, 0, 4, 20) == [90.0, 90.04, 90.08, 90.12, 90.28]


def test_the_time_of_the_first_frame_after_a_seek_must_be_sure():
    assert place((0, 0, 4), (4, 4, 4), sought=True) == [0.0, 0.04]
    for frames in ([(None, 0, 4)], [(4, 0, 4), (4, 4, 4)]):
        with pytest.raises(DecodeFault):
            place(*frames, sought=True)


def test_frames_before_damage_come_before_it():
    def frames() -> Iterator[Frame]:
        yield Frame(0, 0, 4)
        raise DecodeFault("corrupt", "here")

    got = Timeline(Fraction(1, 100), Fraction(1, 25)).displayed(frames())
    assert next(got).start_s == 0
    with pytest.raises(DecodeFault, match="here"):
        next(got)


@given(st.lists(st.tuples(STAMPS, STAMPS, STAMPS), max_size=50))
def test_time_only_ever_grows(frames: list[tuple[int | None, int | None, int | None]]):
    timeline = Timeline(Fraction(1, 90_000), Fraction(1, 25))
    placed = list(timeline.displayed(Frame(*frame) for frame in frames))
    assert [p.frame for p in placed] == frames
    assert all(p.duration_s > 0 for p in placed)
    assert all(a.start_s < b.start_s for a, b in pairwise(placed))


CLOCK = st.lists(st.sampled_from([4, 4, 4, 0, 0, 1, 3, 40, 700, -2, -9, -40, -99]), max_size=40)
"""Steps of a clock of hundredths: regular ones, equal times, pauses, steps back."""
RESTARTING = st.lists(st.sampled_from([4, 4, 0, 40, -2, -500, -7000]), max_size=20)


def ticks(steps: Sequence[int]) -> list[int]:
    return [sum(steps[:n]) for n in range(len(steps) + 1)]


def in_order(stamps: Sequence[int], n: int) -> bool:
    """Whether a frame is after all frames before it and before all frames after it."""
    return max(stamps[:n], default=-1) < stamps[n] < min(stamps[n + 1 :], default=1 << 40)


@given(CLOCK)
def test_a_frame_in_order_has_its_own_time_whatever_came_before(steps: list[int]):
    stamps = ticks(steps)
    low = [min(stamps[n:]) >= max(stamps[:n], default=0) - 100 for n in range(len(stamps))]
    times = clocked(*stamps)
    for n, stamp in enumerate(stamps):
        if in_order(stamps, n) and all(low[: n + 1]):
            assert times[n] == stamp / 100


@given(before=CLOCK, after=RESTARTING)
def test_frames_after_a_seek_have_the_times_of_a_decode_from_the_beginning(
    before: list[int], after: list[int]
):
    """A seek is taken where all frames before the key picture are before it in time too."""
    early = ticks(before)
    if any(min(early[n:]) < early[n] - 100 for n in range(len(early))):
        return
    key = max(early) + 1
    late = [key + tick for tick in ticks(after)]
    whole = clocked(*early, *late)
    try:
        sought = place(*((stamp, stamp, 4) for stamp in late), sought=True)
    except DecodeFault:
        assert late[1] <= late[0]
    else:
        assert sought == whole[len(early) :]


def joined(stamps: Sequence[int]) -> list[int]:
    """Model of ffmpeg's rule, by differences: each step is kept, or replaced by a duration."""
    out = [stamps[0]]
    for before, after in pairwise(stamps):
        step = after - before
        keeps = step >= -10 and abs(step - 4) <= 1000
        out.append(out[-1] + (step if keeps else 4))
    return out


WRAP = 2**33 // 900
CLOCKS = st.lists(
    st.sampled_from([4, 4, 4, 0, 9, 900, 1004, 1005, 5000, -1, -10, -11, -900, -5000, -WRAP]),
    max_size=60,
)


@given(CLOCKS)
def test_decoding_clocks_are_joined_as_ffmpeg_does(steps: list[int]):
    stamps = [0]
    for step in steps:
        stamps.append(stamps[-1] + step)
    clock = DecodingClock(Fraction(1, 100), Fraction(1, 25))
    assert [stamp + clock.shift(stamp, 4) for stamp in stamps] == joined(stamps)
