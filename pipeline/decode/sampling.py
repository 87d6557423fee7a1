"""Resampling by presentation time: which frame of the source is shown at each moment of a clip.

In: frames with their times, in order. Out: frames at the clip's own rate. Pure functions, generic
in the type of a frame, which read at most one frame ahead.

The output times are `t0 + i / fps`, where t0 is the first frame's time. The frame sampled for t is
the last one that begins no later than `t + tolerance`. The tolerance is half a frame of the source
or of the output, whichever is shorter. So a regular source gives the nearest frame, even if its
container rounds times to milliseconds (24 fps at 8 fps: frames 0, 3, 6, …). A gap holds the frame
before it, as in a player. The end of the last frame counts as the beginning of one more frame,
which is never sampled.
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
        """End of its display, in seconds, as the container declares it."""
        return self.start_s + self.duration_s


@dataclass(frozen=True, slots=True)
class SampledFrame(Generic[F]):
    """A frame of the output, shown in [start_s, end_s).

    It is one interval long, also the last one, unless every frame of the source is taken once.
    """

    shown: DisplayedFrame[F]
    start_s: Fraction
    end_s: Fraction


def tolerance(nominal_s: Fraction, interval_s: Fraction) -> Fraction:
    """Return the seconds by which a frame may begin after a time and still be shown at it."""
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
        source: frames whose times increase.
        interval_s: between two frames of the output; None yields every frame once.
        nominal_s: usual duration of a frame of the source.
        start_s: beginning of the output; None: with the first frame. Frames that end before it
            are skipped.
        end_s: end of the output; None: with the last frame. No frame is read from `source` after
            the first one beyond it.
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
    # Even a single frame that is shorter than the tolerance gives one frame.
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
    """Yield the frames that begin in a span; times may be rounded by less than `slack`."""
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
