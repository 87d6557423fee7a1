"""Windows: when clips begin, which are chosen, and several rates and buckets from one pass.

Frames are numbers, and their pixels hold the number, so a clip says which frames it holds.
"""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.decode import ClipRule
from pipeline.decode.buckets import best_size, clip_rules
from pipeline.decode.clip_assembly import AssembledClip
from pipeline.decode.clip_choice import even_rank, hash_rank
from pipeline.decode.cutter import Cutter
from pipeline.decode.pixels.geometry import Fit, fit_frame
from pipeline.decode.sampling import DisplayedFrame
from tests.pipeline.decode.synthetic import sample_frames

MS = Fraction(1, 1000)
NOMINAL = Fraction(1, 10)
DISPLAY = (4, 6)
SIZES = ((2, 2), (2, 4), (4, 2), (4, 8))
"""The last is larger than the picture."""


class Numbers:
    """A converter whose pixels are the number of the frame; it counts how often they are made."""

    def __init__(self) -> None:
        self.made: Counter[tuple[int, tuple[int, int]]] = Counter()
        self._last: dict[tuple[int, tuple[int, int]], NDArray[Any]] = {}

    def display(self, frame: int) -> tuple[int, int]:
        return DISPLAY

    def fit(self, frame: int, size: tuple[int, int]) -> Fit:
        return fit_frame(DISPLAY, size)

    def convert(self, frame: int, size: tuple[int, int]) -> NDArray[Any]:
        if (frame, size) not in self._last:
            self.made[frame, size] += 1
            self._last[frame, size] = np.full((*size, 3), frame, np.int64)
        return self._last[frame, size]

    def release(self) -> None:
        self._last.clear()


Shown = list[DisplayedFrame[Any]]


def rules(**clip: Any) -> tuple[ClipRule, ...]:
    shape = {} if "buckets" in clip else {"frames": 3, "height": 2, "width": 2}
    return clip_rules({"fps": 8.0, "short": "drop", "resize": "uint8"} | shape | clip)


def buckets(*shapes: tuple[int, int, int]) -> list[dict[str, int]]:
    return [{"frames": t, "height": h, "width": w} for t, h, w in shapes]


def cut(
    stretches: list[Shown], rules: tuple[ClipRule, ...], *, key: str = "k", made: Any = None
) -> list[AssembledClip]:
    cutter = Cutter(rules, made or Numbers(), nominal_s=NOMINAL, key=key)
    found = [clip for frames in stretches for clip in cutter.cut(frames)]
    found += cutter.chosen()
    assert sorted(clip.index for clip in found) == list(range(cutter.clips))
    return sorted(found, key=lambda clip: clip.index)


def numbers(clip: AssembledClip) -> list[int]:
    assert clip.frames is not None
    return [int(frame[0, 0, 0]) for frame in clip.frames]


def place(clip: AssembledClip) -> tuple[Any, ...]:
    """All of a clip but its number among the others."""
    frames = None if clip.frames is None else (clip.frames.shape, *numbers(clip))
    times = clip.start_s, clip.end_s, clip.own_frames, clip.padded_frames, clip.times_s
    return (*times, clip.fit, clip.dropped, frames)


@st.composite
def stretches(draw: st.DrawFn, most: int = 60) -> Shown:
    steps = draw(
        st.lists(st.integers(20, 400), min_size=1, max_size=most)
        | st.integers(1, most).map(lambda n: [100] * n)
    )
    start, shown = draw(st.integers(-900, 900)), []
    for number, step in enumerate(steps):
        shown.append(DisplayedFrame(number, start * MS, step * MS))
        start += step
    return shown


RATES: Any = st.sampled_from([None, 2.0, 5.0, 8.0, 29.97])
STRIDES = st.integers(500, 4000).map(lambda ms: ms / 1000)
SHORT = st.sampled_from(["drop", "pad"])
LENGTHS = st.integers(1, 9)


@given(stretches(), RATES, st.none() | STRIDES, LENGTHS, SHORT)
def test_clips_begin_with_the_frame_nearest_to_each_multiple_of_the_stride(
    shown: Shown, fps: float | None, stride_s: float | None, length: int, short: str
) -> None:
    wanted = rules(fps=fps, stride_s=stride_s, frames=length, short=short)
    interval = wanted[0].interval_s
    sampled = list(sample_frames(shown, interval, NOMINAL))
    begins = range(0, len(sampled), length)
    if stride_s is not None:
        step, half = Fraction(str(stride_s)), (interval or NOMINAL) / 2
        first_s = sampled[0].start_s
        last = int((sampled[-1].start_s + half - first_s) / step)
        nearest = [
            min(n for n, f in enumerate(sampled) if f.start_s + half >= first_s + k * step)
            for k in range(last + 1)
        ]
        begins = sorted(set(nearest))  # in a gap of the source one frame can be nearest to two
    full = [n for n in begins if n + length <= len(sampled)]
    rest = [n for n in begins if n + length > len(sampled)][:1]
    if full and rest and full[-1] + length == len(sampled):
        rest = []  # all its frames are in the last clip
    found = cut([shown], wanted)
    assert len(found) == len(full) + len(rest)
    for clip, begin in zip(found, full + rest, strict=True):
        own = sampled[begin : begin + length]
        assert (clip.start_s, clip.end_s) == (own[0].start_s, own[-1].end_s)
        assert clip.own_frames == len(own) == len(clip.times_s)
        if len(own) < length and short == "drop":
            assert (clip.frames, clip.dropped) == (None, "tail")
        else:
            held = [frame.shown.frame for frame in own]
            assert numbers(clip) == held + held[-1:] * (length - len(own))
            assert clip.padded_frames == length - len(own)


@given(stretches(), st.sampled_from([2.0, 5.0, 8.0]), LENGTHS, SHORT)
def test_a_stride_of_the_length_of_a_clip_changes_nothing(
    shown: Shown, fps: float, length: int, short: str
) -> None:
    plain = rules(fps=fps, frames=length, short=short)
    strided = rules(fps=fps, frames=length, short=short, stride_s=length / fps)
    assert [place(clip) for clip in cut([shown], plain)] == [
        place(clip) for clip in cut([shown], strided)
    ]


@given(stretches(), STRIDES, LENGTHS, RATES)
def test_a_frame_is_converted_once_and_only_if_a_clip_needs_it(
    shown: Shown, stride_s: float, length: int, fps: float | None
) -> None:
    made = Numbers()
    wanted = rules(fps=fps, stride_s=stride_s, frames=length, short="pad")
    needed = {n for clip in cut([shown], wanted, made=made) for n in numbers(clip)}
    # A clip that begins within the last full one may not get a frame of its own.
    assert {frame for frame, _ in made.made} == needed
    assert set(made.made.values()) == {1}


SHAPES = st.lists(
    st.tuples(st.integers(1, 8), st.sampled_from(SIZES)).map(lambda s: (s[0], *s[1])),
    min_size=2,
    max_size=5,
    unique=True,
)


def joined(drawn: list[Shown]) -> list[Shown]:
    """Stretches one after another, with frames of numbers of their own."""
    start, number, made = Fraction(0), 0, []
    for frames in drawn:
        shift = start - frames[0].start_s
        made.append(
            [
                DisplayedFrame(number + n, frame.start_s + shift, frame.duration_s)
                for n, frame in enumerate(frames)
            ]
        )
        start, number = made[-1][-1].end_s, number + len(frames)
    return made


@given(
    st.lists(stretches(most=25), min_size=1, max_size=3).map(joined),
    st.lists(RATES, min_size=1, max_size=3, unique=True),
    SHAPES,
    st.booleans(),
    st.fixed_dictionaries(
        {
            "stride_s": st.none() | STRIDES,
            "short": SHORT,
            "max_per_sample": st.none() | st.integers(1, 4),
            "choose": st.sampled_from(["even", "hash"]),
        }
    ),
)
def test_clips_of_several_rates_and_buckets_are_those_of_each_alone(
    shown: list[Shown],
    rates: list[float | None],
    shapes: list[tuple[int, int, int]],
    every_bucket: bool,
    how: dict[str, Any],
) -> None:
    most, alone = how["max_per_sample"], how | {"max_per_sample": None}
    expected: list[tuple[Any, ...]] = []
    shapes = sorted(shapes, key=lambda shape: -shape[0])
    takes = [s for s in shapes if s[0] > 1] or shapes
    sized = [s for s in takes if every_bucket and s[1] <= DISPLAY[0] and s[2] <= DISPLAY[1]]
    if not sized:
        for length in dict.fromkeys(shape[0] for shape in takes):
            sizes = [(h, w) for t, h, w in takes if t == length]
            sized.append((length, *best_size(DISPLAY, sizes)))
    for fps in rates:
        groups: dict[Any, list[AssembledClip]] = {}
        for frames in shown:
            count = len(list(sample_frames(frames, rules(fps=fps)[0].interval_s, NOMINAL)))
            filled = [s for s in sized if s[0] <= count]
            if not every_bucket:
                filled = filled[:1]
            for shape in filled or [s for s in sized if s[0] == sized[-1][0]]:
                group = groups.setdefault(shape if every_bucket else None, [])
                group += cut([frames], rules(fps=fps, buckets=buckets(shape), **alone))
        for clips in groups.values():
            able = [clip for clip in clips if not clip.dropped]
            ranked = sorted(range(len(able)), key=even_rank)
            if how["choose"] == "hash":
                ranked.sort(key=lambda n: hash_rank("k", able[n].start_s))
            for n in [] if most is None else ranked[most:]:
                out = replace(able[n], frames=None, padded_frames=0, dropped="max_per_sample")
                clips[clips.index(able[n])] = out
            expected += [(fps, *place(clip)) for clip in clips]
    made = Numbers()
    wanted = rules(fps=rates, buckets=buckets(*shapes), every_bucket=every_bucket, **how)
    found = [(clip.numbers["fps"], *place(clip)) for clip in cut(shown, wanted, made=made)]
    assert Counter(found) == Counter(expected)
    assert set(made.made.values()) <= {1}


def test_which_clips_are_even() -> None:
    assert sorted(range(10), key=even_rank) == [0, 8, 4, 2, 6, 1, 9, 5, 3, 7]


@given(st.integers(1, 400), st.integers(1, 40))
def test_even_clips_are_never_more_than_twice_as_far_apart(clips: int, most: int) -> None:
    chosen = sorted(sorted(range(clips), key=even_rank)[:most])
    gaps = [b - a for a, b in pairwise(chosen)]
    assert chosen[0] == 0
    assert max(gaps, default=1) <= 2 * min(gaps, default=1)
    if gaps:
        assert clips - chosen[-1] <= 2 * min(gaps)


@given(st.integers(1, 60), st.integers(1, 8), st.sampled_from(["even", "hash"]))
def test_a_larger_maximum_keeps_every_clip(frames: int, most: int, choose: str) -> None:
    shown = [DisplayedFrame(n, n * NOMINAL, NOMINAL) for n in range(frames)]
    few, more = (
        {
            (clip.index, clip.start_s)
            for clip in cut([shown], rules(fps=None, max_per_sample=n, choose=choose, short="pad"))
            if clip.frames is not None
        }
        for n in (most, most + 1)
    )
    assert few <= more
    clips = -(-frames // 3)
    assert (len(few), len(more)) == (min(most, clips), min(most + 1, clips))


@given(st.integers(10, 60), st.integers(1, 6), st.data())
def test_a_choice_by_hash_does_not_depend_on_other_clips(
    frames: int, most: int, data: st.DataObject
) -> None:
    """Frames that vanish shift the numbers of the clips after them, and not their times."""
    shown = [DisplayedFrame(n, n * NOMINAL, NOMINAL) for n in range(frames)]
    wanted = rules(fps=None, frames=1, max_per_sample=most, choose="hash")
    chosen = {numbers(clip)[0] for clip in cut([shown], wanted) if clip.frames is not None}
    gone = data.draw(st.sets(st.sampled_from(sorted(set(range(frames)) - chosen)))) if most else {}
    left = [frame for frame in shown if frame.frame not in gone]
    again = {numbers(clip)[0] for clip in cut([left], wanted) if clip.frames is not None}
    assert again == chosen
    others = [
        {c.start_s for c in cut([shown], wanted, key=key) if c.frames is not None}
        for key in "abcdefgh"
    ]
    assert len(set(map(frozenset, others))) > 1, "each sample draws its own"


def test_no_more_clips_are_held_than_are_chosen() -> None:
    """The pixels of most others are not made at all."""
    shown = [DisplayedFrame(n, n * NOMINAL, NOMINAL) for n in range(3000)]
    for choose in ("even", "hash"):
        made = Numbers()
        wanted = rules(fps=None, max_per_sample=4, choose=choose)
        cutter: Any = Cutter(wanted, made, nominal_s=NOMINAL, key="k")  # type: ignore[arg-type]
        left = list(cutter.cut(shown))
        assert all(clip.frames is None for clip in left)
        assert len(left) == 1000 - 4
        assert len(list(cutter.chosen())) == 4
        assert len(made.made) < 3 * 4 * 14, "about N · (1 + ln(1000 / N)) of 1000 clips"
