"""Which frame of the source stands at each moment of a clip: resampling by presentation time.

In: frames with their times, in order. Out: frames at the clip's own rate. Pure, generic in what a
frame is, and never ahead by more than one frame.

The output times are `t0 + i / fps`, where t0 is the first frame's time. The frame sampled for t is
the last one that begins no later than `t + tolerance`, the tolerance being half a frame of the
source or of the output, whichever is shorter. So a regular source gives the nearest frame, also
when its container rounds times to milliseconds (24 fps at 8 fps: frames 0, 3, 6, …), and a gap
holds the frame before it, as a player does. The end of the last frame counts as the beginning of
one more that is never sampled.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class DisplayedFrame(Generic[F]):
    """A frame of the source and when it is displayed: [start_s, start_s + duration_s)."""

    frame: F
    start_s: Fraction
    duration_s: Fraction

    @property
    def end_s(self) -> Fraction:
        """When the container says that it is over."""
        return self.start_s + self.duration_s


@dataclass(frozen=True, slots=True)
class SampledFrame(Generic[F]):
    """A frame of the output: what to show in [start_s, end_s).

    All but those of an unsampled video are one interval long, the last one too.
    """

    shown: DisplayedFrame[F]
    start_s: Fraction
    end_s: Fraction


def tolerance(nominal_s: Fraction, interval_s: Fraction) -> Fraction:
    """Return how much too late a frame may begin and still be the one at a given time."""
    return min(nominal_s, interval_s) / 2


def sample_frames(
    source: Iterable[DisplayedFrame[F]],
    interval_s: Fraction | None,
    nominal_s: Fraction,
    start_s: Fraction | None = None,
    end_s: Fraction | None = None,
) -> Iterator[SampledFrame[F]]:
    """Yield the frames of the output, in order.

    Args:
        source: frames whose times grow.
        interval_s: between two frames of the output; None yields every frame once.
        nominal_s: usual length of a frame of the source.
        start_s: when the output begins; None: with the first frame. Frames that are over by then
            are passed over.
        end_s: when it ends; None: with the last frame. No frame is taken from `source` after one
            that shows this time to be past.
    """
    if interval_s is None:
        yield from _every(_within(source, nominal_s / 2, start_s, end_s))
        return
    slack = tolerance(nominal_s, interval_s)
    last: DisplayedFrame[F] | None = None
    origin = start_s
    count = 0
    for shown in source:
        if origin is None:
            origin = shown.start_s
        while last is not None and (time := origin + count * interval_s) + slack < shown.start_s:
            if end_s is not None and time + slack >= end_s:
                return
            yield SampledFrame(last, time, time + interval_s)
            count += 1
        last = shown
    if last is None or origin is None:
        return
    over_s = last.end_s if end_s is None else min(last.end_s, end_s)
    # A single frame shorter than the tolerance is still a picture: time zero always has one.
    lone = count == 0 and last.start_s + slack >= origin and over_s > origin
    while (time := origin + count * interval_s) + slack < over_s or lone:
        yield SampledFrame(last, time, time + interval_s)
        count, lone = count + 1, False


def _within(
    source: Iterable[DisplayedFrame[F]],
    slack: Fraction,
    start_s: Fraction | None,
    end_s: Fraction | None,
) -> Iterator[DisplayedFrame[F]]:
    """Yield the frames that begin in a span; a time rounded by less than `slack` loses none."""
    for shown in source:
        if end_s is not None and shown.start_s + slack >= end_s:
            return
        if start_s is None or shown.start_s + slack >= start_s:
            yield shown


def _every(source: Iterable[DisplayedFrame[F]]) -> Iterator[SampledFrame[F]]:
    last: DisplayedFrame[F] | None = None
    for shown in source:
        if last is not None:
            yield SampledFrame(last, last.start_s, shown.start_s)
        last = shown
    if last is not None:
        yield SampledFrame(last, last.start_s, last.end_s)
