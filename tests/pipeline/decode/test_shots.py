"""No clip crosses a cut, and what is left out beside cuts is counted."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.decode import ClipRule, DecodeLimits, Decoder
from pipeline.decode.clip_assembly import AssembledClip
from pipeline.decode.clip_rule import ShotRule
from pipeline.decode.clips import clips
from pipeline.decode.damage import DecodeFault
from pipeline.decode.sampling import DisplayedFrame
from pipeline.decode.shots import split, within
from pipeline.quarantine import SHOT_SHORT, TAIL
from pipeline.records import Span
from tests.pipeline.decode.synthetic import encode, grey, sample

SHOTS = ShotRule(by="content", threshold=3.0, trim_s=0.0, min_s=0.0)
RULE = ClipRule(frames=5, height=32, width=32, fps=None, short="drop", shots=SHOTS)


def video(lengths: Sequence[int], fps: int = 25) -> bytes:
    """Shots of grey stripes; a pixel tells the shot and the frame: 40 · shot + frame / 4."""
    planes = []
    for shot, length in enumerate(lengths):
        picture = np.random.default_rng(shot).integers(0, 2, (4, 4)).repeat(8, 0).repeat(8, 1)
        for n in range(length):
            _, u, v = grey(0)
            luma = 20 + 40 * shot % 160 + 60 * picture.astype(np.uint8)
            luma[:4, :4] = min(n, 255)
            planes.append((luma.astype(np.uint8), u, v))
    return encode(planes, pix_fmt="yuv444p", color_range=2, colorspace=1, rate=fps)


def cut(
    data: bytes, rules: ClipRule | Sequence[ClipRule] = RULE, span: Span | None = None
) -> list[AssembledClip]:
    rules = [rules] if isinstance(rules, ClipRule) else rules
    found = clips(io.BytesIO(data), rules, DecodeLimits(), lambda: None, span)
    return [clip for clip, _ in found]


def places(found: Sequence[AssembledClip]) -> list[tuple[int, float, float, str]]:
    """Return shot, beginning, end and rule of each clip."""
    return [
        (
            int(clip.numbers.get("shot", -1) or 0),
            float(clip.start_s),
            float(clip.end_s),
            clip.dropped,
        )
        for clip in found
    ]


def test_clips_begin_with_each_shot_and_none_crosses_a_cut() -> None:
    found = cut(video([12, 7, 10]))
    assert places(found) == [
        (0, 0.0, 0.2, ""),
        (0, 0.2, 0.4, ""),
        (0, 0.4, 0.48, TAIL),
        (1, 0.48, 0.68, ""),
        (1, 0.68, 0.76, TAIL),
        (2, 0.76, 0.96, ""),
        (2, 0.96, 1.16, ""),
    ]
    assert [clip.index for clip in found] == list(range(7))
    assert [clip.numbers["shot_start_s"] for clip in found if not clip.dropped] == pytest.approx(
        [0, 0, 0.48, 0.76, 0.76]
    )
    # Without shots a clip crosses each cut.
    whole = cut(video([12, 7, 10]), replace(RULE, shots=None))
    assert len([clip for clip in whole if not clip.dropped]) == 5
    assert all(clip.numbers == {} for clip in whole)


def test_the_end_of_each_shot_is_padded() -> None:
    found = cut(video([12, 7]), replace(RULE, short="pad"))
    assert [clip.padded_frames for clip in found] == [0, 0, 3, 0, 3]
    assert found[2].frames is not None
    # The copies are those of the shot's own last frame.
    assert (found[2].frames[2:] == found[2].frames[1]).all()


def test_the_trim_is_left_out_beside_cuts_and_not_at_the_ends_of_the_video() -> None:
    rule = replace(RULE, frames=2, shots=replace(SHOTS, trim_s=0.08))
    found = [place for place in places(cut(video([10, 10, 10]), rule)) if not place[3]]
    of = {n: [place[1:3] for place in found if place[0] == n] for n in range(3)}
    assert (of[0][0][0], of[0][-1][1]) == (0.0, 0.32)
    assert (of[1][0][0], of[1][-1][1]) == (0.48, 0.72)
    assert (of[2][0][0], of[2][-1][1]) == (0.88, 1.2)


def test_a_short_shot_counts_as_one_dropped_clip() -> None:
    for rule in (replace(SHOTS, min_s=0.3), replace(SHOTS, trim_s=0.12)):
        found = cut(video([10, 5, 10]), replace(RULE, shots=rule))
        lost = [clip for clip in found if clip.dropped == SHOT_SHORT]
        assert [(clip.start_s, clip.end_s) for clip in lost] == [(Fraction(2, 5), Fraction(3, 5))]
        assert {place[0] for place in places(found) if not place[3]} == {0, 2}
        assert [clip.index for clip in found] == list(range(len(found)))


def test_each_shot_gets_the_longest_bucket_that_it_fills() -> None:
    long = replace(RULE, frames=9, height=16, width=16)
    found = cut(video([6, 20, 7]), [long, RULE])
    shapes = [None if clip.frames is None else clip.frames.shape[:2] for clip in found]
    assert shapes == [(5, 32), None, (9, 16), (9, 16), None, (5, 32), None]


def test_the_shots_of_a_span_are_counted_from_its_beginning() -> None:
    data = video([12, 10, 12])
    [whole] = [clip for clip in cut(data) if clip.start_s == Fraction(12, 25)]
    found = cut(data, span=Span(start_s=0.4, end_s=1.0))
    assert [place[:3] for place in places(found)] == [
        (0, 0.4, 0.48),
        (1, 0.48, 0.68),
        (1, 0.68, 0.88),
        (2, 0.88, 1.0),
    ]
    assert np.array_equal(found[1].frames, whole.frames)
    # A cut that the rounding of a span's times leaves inside of it begins no shot.
    assert [place[0] for place in places(cut(data, span=Span(start_s=0.0, end_s=0.481)))] == [
        0,
        0,
        0,
    ]
    assert {place[0] for place in places(cut(data, span=Span(start_s=0.479, end_s=0.88)))} == {0}


def test_complete_clips_before_damage_are_kept() -> None:
    def broken() -> Iterator[tuple[DisplayedFrame[str], bool]]:
        for n in range(12):
            yield DisplayedFrame("", Fraction(n, 25), Fraction(1, 25)), n in (0, 6)
        raise DecodeFault("corrupt", "damage")

    shots, frames, damage = [], 0, ""
    try:
        for shot in split(broken()):
            shots.append(shot)
            for _ in shot.frames():
                frames += 1
    except DecodeFault as error:
        damage = error.detail
    assert (frames, damage) == (12, "damage")
    assert [shot.end_s for shot in shots] == [Fraction(6, 25), Fraction(12, 25)]


def test_frames_of_a_span_are_the_same_wherever_reading_begins() -> None:
    frames = [DisplayedFrame(n, Fraction(n, 25), Fraction(1, 25)) for n in range(20)]
    bounds = Fraction(1, 50), Fraction(401, 1000), Fraction(599, 1000)
    for first in range(11):
        found = list(within(frames[first:], *bounds))
        assert [shown.frame for shown in found] == [10, 11, 12, 13, 14]
        assert found[-1].end_s == Fraction(15, 25)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(7, 14), min_size=1, max_size=4),
    frames=st.integers(1, 6),
    fps=st.sampled_from([None, 8.0, 25.0]),
    trim=st.sampled_from([0.0, 0.04, 0.1, 0.3]),
    least=st.sampled_from([0.0, 0.25]),
    short=st.sampled_from(["drop", "pad"]),
)
def test_clips_lie_in_their_shot_without_its_trim(
    lengths: list[int], frames: int, fps: Any, trim: float, least: float, short: Any
) -> None:
    shots = replace(SHOTS, trim_s=trim, min_s=least)
    rule = replace(RULE, frames=frames, fps=fps, short=short, shots=shots)
    found = cut(video(lengths), rule)
    starts = np.cumsum([0, *lengths]) / 25
    assert [clip.index for clip in found] == list(range(len(found)))
    seen = set()
    slack = 0.5 / 25 + 1e-9
    for clip in found:
        number = int(np.searchsorted(starts, float(clip.start_s) + 1e-9, side="right")) - 1
        seen.add(number)
        start, end = starts[number], starts[number + 1]
        if clip.dropped == SHOT_SHORT:
            assert (float(clip.start_s), float(clip.end_s)) == pytest.approx((start, end))
            continue
        assert end - start >= least - 1e-9
        assert float(clip.start_s) >= start + (trim if number else 0) - slack
        if number + 1 < len(lengths):
            assert float(clip.end_s) <= end - trim + slack
        if clip.frames is not None:
            assert clip.numbers["shot"] == number
            assert clip.numbers["shot_start_s"] == pytest.approx(start)
            counters = clip.frames[:, 1, 1, 0]  # frame numbers within the shot
            assert (np.diff(counters.astype(int)) >= 0).all()
    assert seen == set(range(len(lengths)))


def test_the_decoder_passes_the_shots_of_a_sample_on() -> None:
    numbers = {"shot": "int32", "shot_start_s": "float64", "shot_end_s": "float64"}
    with Decoder(RULE, numbers=numbers) as decoder:
        found = list(decoder.decode(sample(video([12, 7])), "unit"))
        assert decoder.shot_ends == pytest.approx([0.48, 0.76])
        sides = [clip.side for clip, frames in found if frames is not None]
        assert [side["shot"] for side in sides] == [0, 0, 1]
        assert sides[2] == {"shot": 1, "shot_start_s": 0.48, "shot_end_s": None}
        list(decoder.decode(sample(video([12])), "unit"))
        assert decoder.shot_ends == pytest.approx([0.48])


@pytest.mark.parametrize("fps", [None, 25.0])
@pytest.mark.parametrize("trim", [0.0, 0.04, 0.12])
def test_the_clips_of_a_shot_are_those_of_its_part_of_the_video(
    trim: float, fps: float | None
) -> None:
    lengths = [14, 11, 23, 9]
    data = video(lengths)
    rule = replace(RULE, fps=fps, shots=replace(SHOTS, trim_s=trim))
    split_up = [clip for clip in cut(data, rule) if not clip.dropped]
    ends = [0, *np.cumsum(lengths).tolist()]
    apart = []
    for n, (start, stop) in enumerate(pairwise(ends)):
        margin = round(trim * 25)
        first = start + (margin if n else 0)
        last = stop - (margin if n < 3 else 0)
        span = Span(start_s=first / 25, end_s=last / 25)
        apart += [clip for clip in cut(data, replace(rule, shots=None), span) if not clip.dropped]
    assert len(split_up) == len(apart) > 5
    for one, other in zip(split_up, apart, strict=True):
        assert (one.start_s, one.end_s, one.times_s) == (other.start_s, other.end_s, other.times_s)
        assert np.array_equal(one.frames, other.frames)
