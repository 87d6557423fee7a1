"""A span of a video: the same frames whether it was sought or decoded from the beginning."""

import io
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode import ClipRule, DecodeLimits, Decoder, clips
from pipeline.decode.sampling import DisplayedFrame
from pipeline.quarantine import QuarantineError
from pipeline.records import Sample, Span
from tests.assets import GOOD, GoodVideo
from tests.pipeline.decode.synthetic import counting, sample_frames

RULE = ClipRule(frames=5, height=32, width=32, fps=8, short="pad")
EVERY = ClipRule(frames=5, height=32, width=32, fps=None, short="pad")

Cut = tuple[Any, ...]


def cuts(path: str, rule: ClipRule, span: Span) -> list[Cut]:
    found: list[Cut] = []
    try:
        with open(path, "rb", buffering=0) as file:
            for cut, _ in clips.clips(file, [rule], DecodeLimits(), lambda: None, span):
                assert cut.frames is not None
                place = (cut.index, cut.start_s, cut.end_s, cut.own_frames)
                found.append((*place, cut.frames.tobytes()))
    except QuarantineError as error:
        found.append((error.reason, error.detail))
    return found


@pytest.mark.parametrize("asset", GOOD, ids=lambda asset: asset.name)
def test_a_seek_changes_nothing(asset: GoodVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = random.Random(asset.name)
    length = asset.frames / asset.fps
    sought: list[bool] = []
    honest = clips.frames_by_seek

    def seek(*arguments: Any) -> Any:
        frames = honest(*arguments)
        sought.append(frames is not None)
        return frames

    for rule in (RULE, EVERY):
        start = round(choose.uniform(0.001, length), 3)
        span = Span(start_s=start, end_s=choose.choice([None, round(start + length / 3, 3)]))
        monkeypatch.setattr(clips, "frames_by_seek", seek)
        found = cuts(str(asset.path), rule, span)
        monkeypatch.setattr(clips, "frames_by_seek", lambda *_: None)
        assert found == cuts(str(asset.path), rule, span)
    if asset.path.suffix in (".mp4", ".mov", ".mkv"):
        assert any(sought)


def test_damage_before_a_span_costs_it_nothing(tmp_path: Path) -> None:
    video = bytearray(counting(50, rate=10, codec="libx264", options={"qp": "0", "g": "10"}))
    with av.open(io.BytesIO(video)) as container:
        hit = [packet for packet in container.demux(video=0) if packet.size][15]
        assert hit.pos is not None
        video[hit.pos + 8 : hit.pos + hit.size] = bytes(hit.size - 8)
    path = tmp_path / "damaged.mkv"
    path.write_bytes(video)
    assert cuts(str(path), RULE, Span())[-1][0] == "corrupt"
    assert cuts(str(path), RULE, Span(start_s=1.3, end_s=2))[-1][0] == "corrupt"
    [after] = cuts(str(path), RULE, Span(start_s=4.2, end_s=4.6))
    assert after[1:4] == (Fraction("4.2"), Fraction("4.575"), 3)


class TestByTheDecoder:
    @pytest.fixture
    def grey(self) -> Iterator[tuple[Decoder, bytes]]:
        """Frame i of 50 is shown from i/10 s on and has level i; every tenth is a key picture."""
        video = counting(50, rate=10, codec="libx264", options={"qp": "0", "g": "10"})
        rule = ClipRule(frames=4, height=32, width=32, fps=None, short="pad")
        with Decoder(rule) as decoder:
            yield decoder, video

    def levels(self, grey: tuple[Decoder, bytes], span: Span | None) -> list[list[int]]:
        decoder, video = grey
        sample = Sample(key="k", video=video, video_name="k.mkv", span=span)
        found = []
        for clip, frames in decoder.decode(sample, "u"):
            assert frames is not None
            own = len(frames) - clip.padded_frames
            found.append([round(float(np.median(f))) for f in frames[:own]])
            assert round(clip.start_s * 10) == found[-1][0]
            assert round(clip.end_s * 10) == found[-1][-1] + 1
        return found

    def test_takes_the_frames_that_begin_in_it(self, grey: tuple[Decoder, bytes]) -> None:
        assert self.levels(grey, Span(start_s=2.3, end_s=2.9)) == [[23, 24, 25, 26], [27, 28]]
        assert self.levels(grey, Span(start_s=2.31, end_s=2.69)) == [[23, 24, 25, 26]]
        assert self.levels(grey, Span(end_s=0.2)) == [[0, 1]]
        assert self.levels(grey, Span(start_s=4.7)) == [[47, 48, 49]]
        assert len(self.levels(grey, None)) == 13

    def test_that_holds_nothing_is_quarantined(self, grey: tuple[Decoder, bytes]) -> None:
        for span, text in [
            (Span(start_s=7, end_s=8.5), "no frame between 7 s and 8.5 s"),
            (Span(start_s=5.2), "no frame between 5.2 s and the end"),
        ]:
            with pytest.raises(QuarantineError, match=text) as caught:
                self.levels(grey, span)
            assert caught.value.reason == "no_frames"
        assert len(self.levels(grey, None)) == 13


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    interval=st.integers(1, 12),
    start=st.integers(0, 60),
    length=st.none() | st.integers(1, 60),
)
def test_the_frames_of_a_span_are_those_that_stand_at_its_moments(
    lengths: list[int], interval: int, start: int, length: int | None
) -> None:
    """Times in tenths; frames follow one another without gaps from 0 on."""
    tenth = Fraction(1, 10)
    starts = [sum(lengths[:n]) for n in range(len(lengths))]
    shown = [DisplayedFrame(n, starts[n] * tenth, lengths[n] * tenth) for n in range(len(lengths))]
    nominal = Fraction(1, 1000)  # so small that no slack reaches another tenth
    end = None if length is None else start + length
    until = sum(lengths) if end is None else min(end, sum(lengths))
    picks = list(
        sample_frames(
            shown, interval * tenth, nominal, start * tenth, None if end is None else end * tenth
        )
    )
    moments = range(start, until, interval)
    assert [p.start_s for p in picks] == [moment * tenth for moment in moments]
    assert [p.shown.frame for p in picks] == [
        max(n for n in range(len(lengths)) if starts[n] <= moment) for moment in moments
    ]


def test_nothing_is_read_after_the_end_of_a_span() -> None:
    read: list[int] = []

    def source() -> Iterator[DisplayedFrame[int]]:
        for n in range(1000):
            read.append(n)
            yield DisplayedFrame(n, Fraction(n, 10), Fraction(1, 10))

    for interval in (Fraction(1, 5), None):
        read.clear()
        picks = list(sample_frames(source(), interval, Fraction(1, 10), Fraction(1), Fraction(2)))
        assert len(picks) == (5 if interval else 10)
        assert max(read) <= 21
