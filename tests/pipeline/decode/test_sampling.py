from fractions import Fraction
from itertools import count, islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode.sampling import DisplayedFrame as Frame
from pipeline.decode.sampling import tolerance
from tests.pipeline.decode.synthetic import sample_frames

RATES = st.sampled_from([1, 8, 10, 12, 15, 24, 25, 30, 50, 60, 120]).map(
    Fraction
) | st.sampled_from([Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)])


def regular(rate: Fraction, frames: int, start: Fraction = Fraction(0)) -> list[Frame[int]]:
    return [Frame(i, start + i / rate, 1 / rate) for i in range(frames)]


def picked(source: list[Frame[int]], fps: Fraction, nominal: Fraction) -> list[int]:
    return [p.shown.frame for p in sample_frames(source, 1 / fps, nominal)]


@st.composite
def irregular(draw: st.DrawFn) -> list[Frame[int]]:
    steps = draw(st.lists(st.integers(1, 900), min_size=1, max_size=40))
    start, shown = draw(st.integers(-5000, 5000)), []
    for index, step in enumerate(steps):
        shown.append(Frame(index, Fraction(start, 1000), Fraction(step, 1000)))
        start += step
    return shown


def test_24_fps_at_8_takes_every_third_frame_as_the_reference_does():
    assert picked(regular(Fraction(24), 48), Fraction(8), Fraction(1, 24)) == list(range(0, 48, 3))


@pytest.mark.parametrize(
    ("source", "fps", "frames", "expected"),
    [
        (30, 30, 5, [0, 1, 2, 3, 4]),
        # Half an output interval of tolerance: the frame of 0.1 s is shown from 0.0833 s on.
        (10, 30, 2, [0, 0, 0, 1, 1, 1]),
        (25, 8, 10, [0, 3, 6, 9]),
        (1, 8, 1, [0] * 8),
        (30, 8, 1, [0]),
    ],
)
def test_the_nearest_frame_is_taken(source: int, fps: int, frames: int, expected: list[int]):
    shown = regular(Fraction(source), frames)
    assert picked(shown, Fraction(fps), Fraction(1, source)) == expected


@given(rate=RATES, fps=RATES, frames=st.integers(1, 200), start=st.integers(-10_000, 10_000))
def test_timestamps_rounded_to_milliseconds_change_nothing(
    rate: Fraction, fps: Fraction, frames: int, start: int
):
    exact = regular(rate, frames, Fraction(start, 1000))
    rounded = [
        Frame(s.frame, Fraction(round(s.start_s * 1000), 1000), Fraction(round(1000 / rate), 1000))
        for s in exact
    ]
    nominal = 1 / rate
    ours, truth = picked(rounded, fps, nominal), picked(exact, fps, nominal)
    assert abs(len(ours) - len(truth)) <= 1
    # Where two frames are as good as equally near, rounding may choose the other one.
    slack = tolerance(nominal, 1 / fps)
    for index, (a, b) in enumerate(zip(ours, truth, strict=False)):
        if a != b:
            later = exact[max(a, b)].start_s
            assert abs(exact[0].start_s + index / fps + slack - later) <= Fraction(2, 1000)


@given(irregular(), RATES, RATES)
def test_every_pick_is_the_last_frame_that_has_begun(
    source: list[Frame[int]], fps: Fraction, rate: Fraction
):
    slack = tolerance(1 / rate, 1 / fps)
    picks = list(sample_frames(source, 1 / fps, 1 / rate))
    begun = source[0].start_s
    for index, one in enumerate(picks):
        assert one.start_s == begun + index / fps
        assert one.end_s == one.start_s + 1 / fps
        candidates = [s for s in source if s.start_s <= one.start_s + slack]
        assert one.shown is candidates[-1]
    end = source[-1].end_s
    assert picks[-1].start_s + slack < end or len(picks) == 1
    assert picks[-1].end_s + slack >= end


@given(irregular())
def test_without_a_rate_every_frame_comes_once_and_lasts_until_the_next(
    source: list[Frame[int]],
):
    picks = list(sample_frames(source, None, Fraction(1, 25)))
    assert [p.shown for p in picks] == source
    assert all(a.end_s == b.start_s for a, b in pairwise(picks))
    assert picks[-1].end_s == source[-1].end_s


@pytest.mark.parametrize("interval", [None, Fraction(1, 8)])
def test_sampling_never_runs_ahead_of_its_source(interval: Fraction | None):
    taken = 0

    def endless():
        nonlocal taken
        for index in count():
            taken += 1
            yield Frame(index, Fraction(index, 24), Fraction(1, 24))

    last = list(islice(sample_frames(endless(), interval, Fraction(1, 24)), 100))[-1]
    assert taken == last.shown.frame + 2  # it, and the one that shows that it is over


@pytest.mark.parametrize("interval", [None, Fraction(1, 8)])
def test_no_frames_give_no_picks(interval: Fraction | None):
    assert list(sample_frames([], interval, Fraction(1, 25))) == []
