"""From one file to the clips of its bucket, with the rate of its source."""

from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from pipeline.decode.buckets import longest, of_length
from pipeline.decode.cut import Cut, cut
from pipeline.decode.picture import Painter
from pipeline.decode.rule import ClipRule, DecodeLimits
from pipeline.decode.sampling import pick
from pipeline.decode.video import open_video


def clips(
    file: BinaryIO, rules: Sequence[ClipRule], limits: DecodeLimits, progress: Callable[[], None]
) -> Iterator[tuple[Cut, float]]:
    """Yield the clips of a video, each with `Video.source_fps`.

    How many frames a video has is known at its end; most fill a clip of the longest bucket before
    that. One that does not is decoded once more, in the length that it has.

    Args:
        file: readable and seekable, at its beginning.
        rules: of one bucket each.
        limits: as `open_video`.
        progress: as `Video.frames`.

    Raises:
        QuarantineError: as `open_video`, `Video.frames` and `Painter.paint`. A video that breaks
            before it fills a clip of the longest bucket has no length, and so no clips.
    """
    tried = longest(rules)
    ended: tuple[Cut, float] | None = None
    for clip, source_fps in _cut(file, tried, limits, progress):
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
        yield from _cut(file, right, limits, progress)


def _cut(
    file: BinaryIO, rules: Sequence[ClipRule], limits: DecodeLimits, progress: Callable[[], None]
) -> Iterator[tuple[Cut, float]]:
    """Yield a video's clips; the rules are of one length, and differ in height and width."""
    rule = rules[0]
    with open_video(file, limits) as video:
        painter = Painter(
            [(each.height, each.width) for each in rules],
            rule.resize,
            video.sample_aspect,
            limits.max_pixels,
            whole=rule.fit == "whole",
        )
        picks = pick(video.frames(progress), rule.interval_s, video.nominal_s)
        for clip in cut(picks, rule, painter.paint):
            yield clip, video.source_fps
