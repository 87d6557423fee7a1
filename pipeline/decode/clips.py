"""From one file to the clips of its bucket, with the frame rate of its source."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from typing import BinaryIO

from av.video.frame import VideoFrame

from pipeline.decode.buckets import longest, of_length
from pipeline.decode.clip_assembly import AssembledClip, assemble_clips
from pipeline.decode.clip_rule import ClipRule, DecodeLimits
from pipeline.decode.damage import DecodeFault
from pipeline.decode.frame_converter import FrameConverter
from pipeline.decode.sampling import DisplayedFrame, sample_frames
from pipeline.decode.video import Video, open_video
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
) -> Iterator[tuple[AssembledClip, float]]:
    """Yield the clips of a video, or of a span of it, each with `Video.source_fps`.

    The number of frames is known only at the end of a video. Most videos fill a clip of the longest
    bucket before that. A video that does not is decoded again, for the bucket of its length.

    Args:
        file: readable and seekable, at its beginning.
        rules: of one bucket each.
        limits: as `open_video`.
        progress: as `Video.frames`.
        span: part of the video that is read; its times count from `Video.begins_s`.

    Raises:
        DecodeFault: `no_frames` if there is none in the span; as `open_video`, `Video.frames` and
            `FrameConverter.convert`. A video that breaks before it fills a clip of the longest
            bucket has no known length, and gives no clips.
    """
    tried = longest(rules)
    ended: tuple[AssembledClip, float] | None = None
    for clip, source_fps in _whole_or_span(file, tried, limits, progress, span):
        if clip.index == 0 and clip.own_frames < tried[0].frames:
            ended = clip, source_fps
        else:
            yield clip, source_fps
    if ended is None:
        return
    right = of_length(rules, ended[0].own_frames)
    if right == tried:
        yield ended
    else:
        yield from _whole_or_span(file, right, limits, progress, span)


def _whole_or_span(
    file: BinaryIO,
    rules: Sequence[ClipRule],
    limits: DecodeLimits,
    progress: Callable[[], None],
    span: Span | None,
) -> Iterator[tuple[AssembledClip, float]]:
    """Yield a video's clips; the rules are of one length, and differ in height and width."""
    if span is None:
        with open_video(file, limits) as video:
            yield from _assembled(video, video.frames(progress), rules, limits)
        return
    for back_s in _SEEK_BACK_S if span.start_s > 0 else ():
        with open_video(file, limits) as video:
            sought = frames_by_seek(video, span, back_s, progress)
            if sought is not None:
                yield from _assembled(video, sought, rules, limits, span)
                return
    with open_video(file, limits) as video:
        yield from _assembled(video, video.frames(progress), rules, limits, span)


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


def _assembled(
    video: Video,
    frames: Iterable[DisplayedFrame[VideoFrame]],
    rules: Sequence[ClipRule],
    limits: DecodeLimits,
    span: Span | None = None,
) -> Iterator[tuple[AssembledClip, float]]:
    rule = rules[0]
    start_s = end_s = None
    if span is not None:
        start_s = video.begins_s + seconds(span.start_s)
        end_s = None if span.end_s is None else video.begins_s + seconds(span.end_s)
    converter = FrameConverter(
        [(each.height, each.width) for each in rules],
        rule.resize,
        video.declared,
        limits.max_pixels,
        whole=rule.fit == "whole",
    )
    sampled = sample_frames(frames, rule.interval_s, video.nominal_s, start_s, end_s)
    clip: AssembledClip | None = None
    for clip in assemble_clips(sampled, rule, converter.convert, video.begins_s):
        yield clip, video.source_fps
    if span is not None and clip is None:
        until = "the end" if span.end_s is None else f"{span.end_s:g} s"
        detail = f"the video has no frame between {span.start_s:g} s and {until}"
        raise DecodeFault("no_frames", detail)


def seconds(value: float) -> Fraction:
    """Return a time as it was written: 12.345 is 12345/1000, not the nearest float."""
    return Fraction(repr(value))
