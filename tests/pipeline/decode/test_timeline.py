from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode.timeline import Timeline

STAMPS = st.none() | st.integers(-(2**40), 2**40)


def place(*frames: tuple[int | None, int | None, int | None]) -> list[float]:
    timeline = Timeline(Fraction(1, 100), Fraction(1, 25))
    return [float(timeline.display_time(*frame)[0]) for frame in frames]


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


def test_a_repeated_timestamp_is_caught_up_with():
    assert place((0, 0, 4), (4, 4, 4), (4, 4, 4), (12, 12, 4)) == [0.0, 0.04, 0.08, 0.12]


def test_a_clock_that_starts_over_goes_on_from_where_it_was():
    assert place((9000, 0, 4), (9004, 0, 4), (0, 0, 4), (4, 0, 4), (20, 0, 4)) == [
        90.0,
        90.04,
        90.08,
        90.12,
        90.28,
    ]


@given(st.lists(st.tuples(STAMPS, STAMPS, STAMPS), max_size=50))
def test_time_only_ever_grows(frames: list[tuple[int | None, int | None, int | None]]):
    timeline = Timeline(Fraction(1, 90_000), Fraction(1, 25))
    placed = [timeline.display_time(*frame) for frame in frames]
    assert all(length > 0 for _, length in placed)
    assert all(a[0] < b[0] for a, b in pairwise(placed))
