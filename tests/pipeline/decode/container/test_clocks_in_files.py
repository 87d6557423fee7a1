"""Any clock in a real file: times as a model says, and every span as from the beginning."""

import io
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import av
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.decode import ClipRule, DecodeLimits, clips
from pipeline.decode.container.video import open_video
from pipeline.quarantine import QuarantineError
from pipeline.records import Span
from tests.pipeline.decode.synthetic import counting

COUNT = 24
X264 = {"qp": "0", "g": "6", "bf": "0", "sc_threshold": "0"}
SOURCE = counting(COUNT, codec="libx264", options=X264)


def with_times(times: Sequence[int], container: str, source: bytes = SOURCE) -> bytes:
    """Copy the pictures, each to its time in milliseconds."""
    out = io.BytesIO()
    with av.open(io.BytesIO(source)) as read, av.open(out, "w", format=container) as target:
        stream = target.add_stream_from_template(read.streams.video[0])
        packets = (packet for packet in read.demux(video=0) if packet.size)
        for packet, time in zip(packets, times, strict=True):
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = time
            packet.duration = 0
            target.mux(packet)
    return out.getvalue()


def stepping_back(times: Sequence[int]) -> bytes:
    """A Matroska file whose blocks have these times, which the muxer would refuse."""
    out = bytearray(with_times(range(COUNT), "matroska"))
    with av.open(io.BytesIO(out)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    for place, time in zip(places, times, strict=True):
        assert place is not None
        assert out[place] == 0x81, "a block begins with the number of its track"
        out[place + 1 : place + 3] = time.to_bytes(2, "big", signed=True)
    return bytes(out)


def shown(video: bytes) -> list[int]:
    """Start of each picture in microseconds."""
    with open_video(io.BytesIO(video), DecodeLimits()) as opened:
        return [round(d.start_s * 1_000_000) for d in opened.frames(lambda: None)]


def cuts(video: bytes, span: Span, fps: float | None) -> list[tuple[object, ...]]:
    rule = ClipRule(frames=3, height=32, width=32, fps=fps, short="pad")
    found: list[tuple[object, ...]] = []
    try:
        for clip, _ in clips.clips(io.BytesIO(video), [rule], DecodeLimits(), lambda: None, span):
            assert clip.frames is not None
            levels = clip.frames[:, 16, 16, 0].tolist()
            found.append((clip.start_s, clip.end_s, clip.own_frames, levels))
    except QuarantineError as error:
        found.append((error.reason, error.detail))
    return found


def same_from_the_beginning(video: bytes, span: Span) -> None:
    for fps in (None, 8.0, 25.0):
        sought = cuts(video, span, fps)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clips, "frames_by_seek", lambda *_: None)
            assert sought == cuts(video, span, fps), (span, fps)


def expected(times: Sequence[int], nominal: int = 40) -> list[int | None]:
    """Model: a picture that is after all before it and before all after it has its own time."""
    out: list[int | None] = []
    for n, time in enumerate(times):
        settled = max(times[:n], default=-1) < time < min(times[n + 1 :], default=1 << 60)
        out.append(time * 1000 if settled else None)
    return out


STEPS = st.lists(
    st.sampled_from([40, 40, 40, 0, 0, 1, 33, 80, 700, 9000]),
    min_size=COUNT - 1,
    max_size=COUNT - 1,
)
BACK = st.lists(
    st.sampled_from([40, 40, 40, 40, 0, 1, 400, -20, -40, -300]),
    min_size=COUNT - 1,
    max_size=COUNT - 1,
)
SPANS = st.tuples(st.integers(0, 4000), st.integers(1, 3000))


def sums(steps: Sequence[int]) -> list[int]:
    return [sum(steps[:n]) for n in range(len(steps) + 1)]


def check(video: bytes, times: Sequence[int], spans: Sequence[tuple[int, int]]) -> None:
    found = shown(video)
    assert len(found) == COUNT
    assert all(a <= b for a, b in pairwise(found))
    begin = times[0] * 1000
    for time, right in zip(found, expected(times), strict=True):
        assert right is None or time - found[0] == right - begin
    for start, length in spans:
        same_from_the_beginning(video, Span(start_s=start / 1000, end_s=(start + length) / 1000))


@settings(max_examples=25)
@given(steps=STEPS, spans=st.lists(SPANS, min_size=1, max_size=3))
@pytest.mark.parametrize("container", ["matroska", "flv", "mp4"])
def test_a_clock_that_waits_and_pauses(
    container: str, steps: list[int], spans: list[tuple[int, int]]
):
    times = sums(steps)
    if container == "mp4":  # the table of an MP4 holds differences, and PyAV writes no 0
        times = sums([max(step, 1) for step in steps])
    check(with_times(times, container), times, spans)


@settings(max_examples=25)
@given(steps=BACK, spans=st.lists(SPANS, min_size=1, max_size=3))
def test_a_clock_that_steps_back(steps: list[int], spans: list[tuple[int, int]]):
    times = sums(steps)
    assume(min(times) >= 0 and all(min(times[n:]) > times[n] - 1000 for n in range(COUNT)))
    check(stepping_back(times), times, spans)


@settings(max_examples=20)
@given(
    before=st.integers(0, 20_000),
    restart=st.integers(0, 3),
    spans=st.lists(SPANS, min_size=1, max_size=3),
)
def test_a_clock_that_starts_over(before: int, restart: int, spans: list[tuple[int, int]]):
    """Two recordings in one file: the second starts at zero, with a key picture."""
    split = 6 * restart
    times = [before + 40 * n for n in range(split)] + [40 * n for n in range(COUNT - split)]
    assume(not split or before + 40 * split > 1200)
    video = stepping_back(times)
    found = shown(video)
    lost = 39_000 if split else 0  # the header says that a picture lasts 1 ms
    times = [40_000 * n - (lost if n >= split else 0) for n in range(COUNT)]
    assert [t - found[0] for t in found] == times
    for start, length in spans:
        same_from_the_beginning(video, Span(start_s=start / 1000, end_s=(start + length) / 1000))


@pytest.mark.parametrize(
    ("offset_s", "gap_s"),
    [(0.24, 0), (1, 0.76), (9.9, 9.66), (20, 0), (100_000, 0), (-0.05, -0.29), (-5, 0), (-90, 0)],
)
def test_transport_streams_are_joined_as_ffmpeg_does(offset_s: float, gap_s: float):
    """A second recording of 6 pictures (0.24 s) that begins so much after or before the first."""
    source = counting(6, codec="libx264", options={**X264, "tune": "zerolatency"})
    base = 200_000
    first = with_times([base + 40 * n for n in range(6)], "mpegts", source)
    begins = base + round(1000 * offset_s)
    second = with_times([begins + 40 * n for n in range(6)], "mpegts", source)
    found = shown(first + second)
    assert len(found) == 12
    joined = [0, 40, 80, 120, 160, 200]
    if gap_s >= 0:
        later = [240 + round(1000 * gap_s) + time for time in joined]
        assert [round((t - found[0]) / 1000) for t in found] == joined + later
