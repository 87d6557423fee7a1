"""Splits the displayed frames of a video, or of a span of it, into shots.

    frames ─► marked (does one begin a shot?) ─► Shot, Shot, … ─► Cutter.cut ─► clips of one shot

A shot is known to end when the first frame of the next one is. So the sampled frames that could lie
within `trim_s` of a cut, or in a shot shorter than `min_s`, wait in `HeldBack` before they become
clips. All but a handful wait as pixels of the clip's size. The clips do not depend on it.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, Final, Generic, TypeVar

from pipeline.decode.clip_rule import ShotRule
from pipeline.decode.sampling import DisplayedFrame, SampledFrame
from pipeline.quarantine import QuarantineError

HANDFUL: Final = 4
"""Maximum number of sampled frames that wait as decoded frames."""

F = TypeVar("F")
Marked = tuple[DisplayedFrame[F], bool]
"""A frame, and whether it begins a shot."""


def shot_numbers(number: int, start_s: Fraction, end_s: Fraction | None) -> dict[str, float | None]:
    """Return the values of the columns of a clip's shot."""
    return {
        "shot": number,
        "shot_start_s": float(start_s),
        "shot_end_s": None if end_s is None else float(end_s),
    }


class Shot(Generic[F]):
    """One shot. Its frames must be taken before the next shot is.

    Args:
        number: number of the shot in the sample, from 0.
        first: its first frame.
        start_s: beginning of the shot: of a span, or of its first frame.
        rest: the marked frames after the first one.
    """

    def __init__(
        self,
        number: int,
        first: DisplayedFrame[F],
        start_s: Fraction,
        rest: Iterator[Marked[F]],
    ) -> None:
        self.number = number
        self.first = first
        self.start_s = start_s
        self.end_s: Fraction | None = None
        """End of the shot; None until it is known."""
        self.sure_s = start_s
        """Time after which the next cut is."""
        self.next: DisplayedFrame[F] | None = None
        """First frame of the next shot, whose beginning is a cut; None before, or without one."""
        self.count = 1
        """Number of its frames so far."""
        self._rest = rest

    def frames(self) -> Iterator[DisplayedFrame[F]]:
        """Yield the frames. The last one before a cut ends with the cut.

        Raises:
            QuarantineError: as the frames of the video, after all frames before it.
        """
        last = self.first
        try:
            for shown, begins in self._rest:
                if begins:
                    self.next = shown
                    last = replace(last, duration_s=shown.start_s - last.start_s)
                    break
                self.sure_s = shown.start_s
                self.count += 1
                yield last
                last = shown
        except QuarantineError:
            self.end_s = last.end_s
            yield last
            raise
        self.end_s = last.end_s
        yield last

    @property
    def numbers(self) -> dict[str, float | None]:
        """Values of the columns of its clips; its end comes with the end of the sample."""
        return shot_numbers(self.number, self.start_s, None)

    def begins_s(self, trim_s: Fraction) -> Fraction:
        """Return where clips begin: after the trim, except at the beginning of the sample."""
        return self.start_s + (trim_s if self.number else 0)


def split(frames: Iterable[Marked[F]], start_s: Fraction | None = None) -> Iterator[Shot[F]]:
    """Yield the shots one after another.

    Args:
        frames: frames, each with whether it begins a shot; the first one always does.
        start_s: beginning of the first shot; None: with its first frame.
    """
    source = iter(frames)
    first = next((shown for shown, _ in source), None)
    number = 0
    while first is not None:
        shot = Shot(number, first, first.start_s if start_s is None else start_s, source)
        yield shot
        first, start_s, number = shot.next, None, number + 1


def within(
    frames: Iterable[DisplayedFrame[F]],
    slack_s: Fraction,
    start_s: Fraction | None,
    end_s: Fraction | None,
) -> Iterator[DisplayedFrame[F]]:
    """Yield the frames of a span, from the one that is shown as it begins.

    So the shots of a span do not depend on where the reading began, and a frame that lies in a span
    only because its times are rounded is left out.

    Args:
        frames: frames of the video.
        slack_s: seconds by which times may be rounded.
        start_s: beginning of the span; None: of the video.
        end_s: end of the span; None: of the video.
    """
    last: DisplayedFrame[F] | None = None
    try:
        for shown in frames:
            if end_s is not None and shown.start_s + slack_s >= end_s:
                if last is not None:
                    last = replace(last, duration_s=shown.start_s - last.start_s)
                break
            if last is not None and (start_s is None or shown.start_s > start_s + slack_s):
                yield last
            last = shown
    except QuarantineError:
        if last is not None:
            yield last
        raise
    if last is not None:
        yield last


class HeldBack:
    """Holds the sampled frames of one shot until it is sure that they belong to clips.

    Args:
        shot: the shot; None holds nothing back.
        rule: what is left out; None: nothing.
        slack_s: seconds by which times may be rounded.
        shrink: returns a frame that takes less memory, given it and the one before it.
    """

    def __init__(
        self,
        shot: Shot[Any] | None,
        rule: ShotRule | None,
        slack_s: Fraction,
        shrink: Callable[[SampledFrame[Any], SampledFrame[Any] | None], SampledFrame[Any]],
    ) -> None:
        self._shot = shot
        self._trim_s = Fraction(repr(0 if rule is None else rule.trim_s))
        self._min_s = Fraction(repr(0 if rule is None else rule.min_s))
        self._slack_s = slack_s
        self._shrink = shrink
        self._held: deque[SampledFrame[Any]] = deque()

    def push(self, sampled: Iterable[SampledFrame[Any]]) -> Iterator[SampledFrame[Any]]:
        """Take frames; yield those that no later cut can take away."""
        if self._shot is None:
            yield from sampled
            return
        for frame in sampled:
            self._held.append(frame)
            if len(self._held) > HANDFUL:
                before = self._held[-HANDFUL - 2] if len(self._held) > HANDFUL + 1 else None
                self._held[-HANDFUL - 1] = self._shrink(self._held[-HANDFUL - 1], before)
        if not self._held:
            return
        if not self._min_s or self._shot.sure_s - self._shot.start_s >= self._min_s:
            yield from self._until(self._shot.sure_s - self._trim_s)

    def rest(self) -> Iterator[SampledFrame[Any]]:
        """Yield what is left when the shot has ended: nothing of a short shot or of the trim."""
        shot = self._shot
        if shot is not None and shot.end_s is not None and shot.end_s - shot.start_s >= self._min_s:
            cut = shot.next is not None
            yield from self._until(shot.end_s - self._trim_s + self._slack_s if cut else None)

    def _until(self, time_s: Fraction | None) -> Iterator[SampledFrame[Any]]:
        while self._held and (time_s is None or self._held[0].end_s <= time_s):
            yield self._held.popleft()
