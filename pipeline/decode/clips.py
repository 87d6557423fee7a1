"""From one file to the clips of its buckets, with the frame rate of its source."""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from typing import BinaryIO

from av.video.frame import VideoFrame

from pipeline.decode.clip_assembly import AssembledClip
from pipeline.decode.clip_rule import ClipRule, DecodeLimits
from pipeline.decode.container.video import Video, open_video
from pipeline.decode.cutter import Cutter
from pipeline.decode.damage import DecodeFault
from pipeline.decode.pixels.frame_converter import FrameConverter
from pipeline.decode.sampling import DisplayedFrame
from pipeline.decode.shot_cuts import marked
from pipeline.decode.shots import split, within
from pipeline.quarantine import QuarantineError
from pipeline.records import Span

_SEEK_BACK_S = (0, 10)
"""Seconds before a span's beginning at which its seek aims. An index counts decoding time, so the
first seek can end after a picture of the span; the second covers this case."""


_MOST_HELD = 64
"""Maximum number of frames that are held until a span begins."""


def clips(
    file: BinaryIO,
    rules: Sequence[ClipRule],
    limits: DecodeLimits,
    progress: Callable[[], None],
    span: Span | None = None,
    key: str = "",
    shot_ended: Callable[[Fraction], None] = lambda end_s: None,
) -> Iterator[tuple[AssembledClip, float]]:
    """Yield the clips of a video, or of a span of it, each with `Video.source_fps`.

    Args:
        file: readable and seekable, at its beginning.
        rules: of one rate and bucket each.
        limits: as `open_video`.
        progress: as `Video.frames`.
        span: part of the video that is read; its times count from `Video.begins_s`.
        key: key of the sample, by which clips are chosen.
        shot_ended: called with the end of each shot, if the rules split the video into shots.

    Raises:
        DecodeFault: `no_frames` if there is none in the span; as `open_video`, `Video.frames` and
            `FrameConverter.convert`. A video that breaks before it fills a clip of the longest
            bucket has no known length, and gives no clips.
    """
    part = _after(span, rules[0].offset_s)
    cuts: set[Fraction] = set()
    if rules[0].shots is not None and rules[0].shots.by == "transnetv2":
        from pipeline.decode.shot_network import load_network, network_cuts

        with _reading(file, limits, progress, part) as (video, frames):
            shown = within(frames, video.nominal_s / 2, *_bounds(video, part))
            cuts = network_cuts(shown, rules[0].shots.threshold, progress, load_network())
    with _reading(file, limits, progress, part) as (video, frames):
        yield from _cut(video, frames, rules, limits, part, key, cuts, shot_ended)


@contextmanager
def _reading(
    file: BinaryIO, limits: DecodeLimits, progress: Callable[[], None], part: Span | None
) -> Iterator[tuple[Video, Iterable[DisplayedFrame[VideoFrame]]]]:
    """Open a video at the frame that is shown as a part of it begins, or before it."""
    for back_s in _SEEK_BACK_S if part is not None and part.start_s > 0 else ():
        assert part is not None
        with open_video(file, limits) as video:
            sought = frames_by_seek(video, part, back_s, progress)
            if sought is not None:
                yield video, sought
                return
    with open_video(file, limits) as video:
        yield video, video.frames(progress)


def _bounds(video: Video, span: Span | None) -> tuple[Fraction | None, Fraction | None]:
    """Return the beginning and the end of a span in presentation time."""
    if span is None:
        return None, None
    end_s = None if span.end_s is None else video.begins_s + seconds(span.end_s)
    return video.begins_s + seconds(span.start_s), end_s


def _after(span: Span | None, offset_s: float) -> Span | None:
    """Return the span without the seconds that are skipped at its beginning."""
    if not offset_s:
        return span
    span = span or Span()
    return replace(span, start_s=float(seconds(span.start_s) + seconds(offset_s)))


def frames_by_seek(
    video: Video, span: Span, back_s: int, progress: Callable[[], None]
) -> Iterator[DisplayedFrame[VideoFrame]] | None:
    """Return the frames from the one that is shown as a span begins, by a seek.

    Return None if the seek is not possible or meets any damage. Pictures after a seek may depend on
    skipped ones, so such damage proves nothing, and the video must be read from its beginning.
    """
    start_s = video.begins_s + seconds(span.start_s)
    if not video.seek(max(video.begins_s, start_s - back_s), start_s):
        return None
    frames = video.frames(progress)
    held: list[DisplayedFrame[VideoFrame]] = []
    try:
        for shown in frames:
            # A frame may begin so much earlier and still belong to the span, see `sampling`.
            if shown.start_s + video.nominal_s / 2 < start_s:
                held.clear()
            held.append(shown)
            if shown.start_s > start_s or len(held) > _MOST_HELD:
                video.begin_span()
                return chain(held, frames) if held[0].start_s <= start_s else None
    except QuarantineError:
        return None
    return iter(held) if held else None


def _cut(
    video: Video,
    frames: Iterable[DisplayedFrame[VideoFrame]],
    rules: Sequence[ClipRule],
    limits: DecodeLimits,
    span: Span | None,
    key: str,
    cuts: Container[Fraction],
    shot_ended: Callable[[Fraction], None],
) -> Iterator[tuple[AssembledClip, float]]:
    start_s, end_s = _bounds(video, span)
    converter = FrameConverter(
        rules[0].resize, video.declared, limits.max_pixels, whole=rules[0].fit == "whole"
    )
    cutter = Cutter(rules, converter, nominal_s=video.nominal_s, origin_s=video.begins_s, key=key)
    broken: QuarantineError | None = None
    try:
        if (shots := rules[0].shots) is None:
            for clip in cutter.cut(frames, start_s, end_s):
                yield clip, video.source_fps
        else:
            frames = within(frames, video.nominal_s / 2, start_s, end_s)
            marks = (
                marked(frames, shots.threshold)
                if shots.by == "content"
                else ((shown, shown.start_s in cuts) for shown in frames)
            )
            for shot in split(marks, start_s):
                try:
                    begins_s = shot.begins_s(seconds(shots.trim_s))
                    for clip in cutter.cut(shot.frames(), begins_s, end_s, shot):
                        yield clip, video.source_fps
                finally:
                    if shot.end_s is not None:
                        shot_ended(shot.end_s)
    except QuarantineError as error:
        broken = error
    for clip in cutter.chosen():
        yield clip, video.source_fps
    if broken is not None:
        raise broken
    if span is not None and not cutter.clips and not rules[0].offset_s:
        until = "the end" if span.end_s is None else f"{span.end_s:g} s"
        detail = f"the video has no frame between {span.start_s:g} s and {until}"
        raise DecodeFault("no_frames", detail)


def seconds(value: float) -> Fraction:
    """Return a time as it was written: 12.345 is 12345/1000, not the nearest float."""
    return Fraction(repr(value))
