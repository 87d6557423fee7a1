"""Resampling by presentation time: which frame of the source is shown at each moment of a clip.

In: frames with their times, in order. Out: frames at the clip's own rate. A sampler is pushed each
frame of the source and holds one of them. So several samplers can share one decode in lock step.

The output times are `t0 + i / fps`, where t0 is the first frame's time. The frame sampled for t is
the last one that begins no later than `t + tolerance`. The tolerance is half a frame of the source
or of the output, whichever is shorter. So a regular source gives the nearest frame, even if its
container rounds times to milliseconds (24 fps at 8 fps: frames 0, 3, 6, …). A gap holds the frame
before it, as in a player. The end of the last frame counts as the beginning of one more frame,
which is never sampled.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Generic, TypeVar

F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)


@dataclass(frozen=True, slots=True)
class DisplayedFrame(Generic[F_co]):
    """A frame of the source and when it is displayed: [start_s, start_s + duration_s)."""

    frame: F_co
    start_s: Fraction
    duration_s: Fraction

    @property
    def end_s(self) -> Fraction:
        """End of its display, in seconds, as the container declares it."""
        return self.start_s + self.duration_s


@dataclass(frozen=True, slots=True)
class SampledFrame(Generic[F_co]):
    """A frame of the output, shown in [start_s, end_s).

    It is one interval long, also the last one, unless every frame of the source is taken once.
    """

    shown: DisplayedFrame[F_co]
    start_s: Fraction
    end_s: Fraction


def tolerance(nominal_s: Fraction, interval_s: Fraction) -> Fraction:
    """Return the seconds by which a frame may begin after a time and still be shown at it."""
    return min(nominal_s, interval_s) / 2


class Sampler(Generic[F]):
    """Gives the frames of the output while the frames of the source arrive.

    Args:
        interval_s: between two frames of the output; None gives every frame once.
        nominal_s: usual duration of a frame of the source.
        start_s: beginning of the output; None: with the first frame. Frames that end before it
            are skipped.
        end_s: end of the output; None: with the last frame.
    """

    def __init__(
        self,
        interval_s: Fraction | None,
        nominal_s: Fraction,
        start_s: Fraction | None = None,
        end_s: Fraction | None = None,
    ) -> None:
        self._interval_s = interval_s
        self.slack_s = nominal_s / 2 if interval_s is None else tolerance(nominal_s, interval_s)
        """Seconds by which times may be rounded."""
        self._start_s, self._end_s = start_s, end_s
        self._last: DisplayedFrame[F] | None = None
        self._count = 0
        self.ended = False
        """Whether no frame that follows can be in the output."""

    def push(self, shown: DisplayedFrame[F]) -> Iterator[SampledFrame[F]]:
        """Take the next frame of the source; yield the frames that are complete before it."""
        if self._interval_s is None:
            yield from self._push_one(shown)
            return
        if self._start_s is None:
            self._start_s = shown.start_s
        while self._last is not None:
            time = self._start_s + self._count * self._interval_s
            if time + self.slack_s >= shown.start_s:
                break
            if self._end_s is not None and time + self.slack_s >= self._end_s:
                self.ended, self._last = True, None
                return
            yield SampledFrame(self._last, time, time + self._interval_s)
            self._count += 1
        self._last = shown

    def _push_one(self, shown: DisplayedFrame[F]) -> Iterator[SampledFrame[F]]:
        """Select a frame that begins within the span; times are rounded by less than the slack."""
        begins_s = shown.start_s + self.slack_s
        self.ended = self._end_s is not None and begins_s >= self._end_s
        if self.ended or (self._start_s is not None and begins_s < self._start_s):
            return
        if self._last is not None:
            yield SampledFrame(self._last, self._last.start_s, shown.start_s)
        self._last = shown

    def rest(self) -> Iterator[SampledFrame[F]]:
        """Yield the frames that are left when the source has ended, or the sampler has."""
        last = self._last
        if last is None:
            return
        if self._interval_s is None:
            yield SampledFrame(last, last.start_s, last.end_s)
            return
        assert self._start_s is not None
        over_s = last.end_s if self._end_s is None else min(last.end_s, self._end_s)
        # Even a single frame that is shorter than the tolerance gives one frame.
        lone = self._count == 0 and last.start_s + self.slack_s >= self._start_s
        lone = lone and over_s > self._start_s
        while (
            time := self._start_s + self._count * self._interval_s
        ) + self.slack_s < over_s or lone:
            yield SampledFrame(last, time, time + self._interval_s)
            self._count, lone = self._count + 1, False
