"""Display time of each decoded frame, from the container's timestamps.

In: frames in the decoder's output order, which is the order of display. Out: times that strictly
increase. Timestamps of real files are missing (AVI stores none), repeat, start anywhere (edit
lists, transport streams), jump, and restart (joined recordings).

A correction moves one frame, never those after it. So a decode that begins at a later key picture
gives the same times as one that begins with the file. Only a clock that restarts moves all that
follows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol, TypeVar

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decode.damage import DecodeFault
from pipeline.decode.sampling import DisplayedFrame
from pipeline.quarantine import QuarantineError

RESTART_S = 1
"""Seconds that a clock must step back to count as restarted."""


JUMP_S, BACK_S = 10, Fraction(1, 10)
"""Seconds that a decoding clock must jump ahead, or step back, to count as another clock. The
values are those of `ffmpeg` (`-dts_delta_threshold`)."""


HALVINGS = 16
"""Maximum number of frames in a row that are placed before a frame at their time."""


class Stamped(Protocol):
    """A frame with the container's timestamps, in units of its time base."""

    @property
    def pts(self) -> int | None:
        """Presentation timestamp."""

    @property
    def dts(self) -> int | None:
        """Decoding timestamp of its packet."""

    @property
    def duration(self) -> int | None:
        """Duration; None or 0 when unknown."""


S = TypeVar("S", bound=Stamped)


@dataclass(slots=True)
class DecodingClock:
    """Joins the decoding clocks of a stream whose container may change the clock anywhere.

    This is the rule of `ffmpeg` for formats with AVFMT_TS_DISCONT. A packet that is more than
    `JUMP_S` from the end of the one before it, or more than `BACK_S` before its beginning, starts
    another clock: it begins at that end.
    """

    time_base: Fraction
    nominal_s: Fraction
    """Duration of a packet in seconds if the container does not declare it."""

    _shift: int = 0
    _last: int | None = None
    _next: int = 0

    def shift(self, dts: int, duration: int | None) -> int:
        """Return what must be added to the timestamps of the next packet, in the time base."""
        here = dts + self._shift
        if self._last is not None:
            ahead_s = (here - self._next) * self.time_base
            back_s = (self._last - here) * self.time_base
            if abs(ahead_s) > JUMP_S or back_s > BACK_S:
                self._shift += self._next - here
                here = self._next
        self._last = here
        self._next = here + (duration or round(self.nominal_s / self.time_base))
        return self._shift


@dataclass(slots=True)
class Timeline:
    """Gives each frame its time, in seconds as an exact fraction.

    1. A frame's own presentation timestamp counts. Without one, the decoding timestamp of its
       packet counts; without both, the end of the previous frame.
    2. A frame whose time is not before that of the next frame is shown halfway between its
       neighbours. So the last frame of several at one time has that time.
    3. A frame whose time is not after the previous frame is shown halfway to the next frame, or
       immediately after the previous frame if the next one is not after it either.
    4. A step back by more than `RESTART_S` is a clock that restarted: it continues at the end of
       the previous frame. The shift ends as soon as the unshifted clock continues.
    """

    time_base: Fraction
    nominal_s: Fraction
    """Duration of a frame in seconds if the container does not declare it."""
    sought: bool = False
    """Whether the first frame is not the first of the file, so that its own time must be sure."""

    _last: Fraction | None = None
    """Beginning of the last frame that has its final time."""
    _end: Fraction = Fraction(0)
    """End of the last frame by its own time."""
    _shift: Fraction = Fraction(0)
    _halvings: int = 0

    def displayed(self, frames: Iterable[S]) -> Iterator[DisplayedFrame[S]]:
        """Yield the frames with their times, each when the next one is known.

        Raises:
            DecodeFault: the time of a first frame after a seek is not sure.
            QuarantineError: as `frames`; all frames before it are yielded.
        """
        held: tuple[S, Fraction, Fraction] | None = None
        try:
            for frame in frames:
                own, length = self._own(frame, None if held is None else held[1])
                if held is not None:
                    yield self._placed(*held, own)
                elif self.sought and frame.pts is None:
                    raise DecodeFault("corrupt", "a key picture without its time")
                held = frame, own, length
        except QuarantineError:
            if held is not None:
                yield self._placed(*held, None)
            raise
        if held is not None:
            yield self._placed(*held, None)

    def _own(self, frame: S, before: Fraction | None) -> tuple[Fraction, Fraction]:
        """Return a frame's own time, and its duration."""
        stamp = frame.dts if frame.pts is None else frame.pts
        if stamp is None:
            own = self._end
        else:
            clock = stamp * self.time_base
            own = clock + self._shift
            if self._shift and before is not None and before < clock < own:
                self._shift, own = Fraction(0), clock
            sure = before if self._last is None else self._last
            if before is not None and sure is not None and own < min(before, sure) - RESTART_S:
                self._shift += self._end - own
                own = self._end
        known = frame.duration is not None and frame.duration > 0
        length = frame.duration * self.time_base if known and frame.duration else self.nominal_s
        self._end = own + length
        return own, length

    def _placed(
        self, frame: S, own: Fraction, length: Fraction, following: Fraction | None
    ) -> DisplayedFrame[S]:
        last, start = self._last, own
        if last is None:
            if self.sought and following is not None and following <= own:
                raise DecodeFault("corrupt", "a key picture that shares its time")
        elif last < own and (following is None or own < following or following <= last):
            self._halvings = 0
        elif following is not None and last < following and self._halvings < HALVINGS:
            start = (last + following) / 2
            self._halvings += 1
        else:
            start = max(own, last + self.nominal_s / 1000)
        self._last = start
        return DisplayedFrame(frame, start, length)


class Beginning:
    """Finds where the pictures of a recording begin that starts between two key pictures.

    Pictures before its first key picture depend on pictures that are not in the file.
    """

    def __init__(self) -> None:
        self.has_key = False
        """Whether a key picture has been read."""
        self._joined: bool | None = None
        self._key: int | None = None

    def packet(self, packet: "Packet[VideoStream]") -> None:
        """Note a packet before it is decoded."""
        if self._joined is None:
            self._joined = not packet.is_keyframe
        if not self.has_key and packet.is_keyframe:
            self.has_key = True
            self._key = packet.dts if packet.pts is None else packet.pts

    def shows(self, frame: VideoFrame) -> bool:
        """Return whether a decoded frame belongs to the video."""
        if self._joined:
            stamp = frame.dts if frame.pts is None else frame.pts
            reached = self.has_key and (stamp is None or self._key is None or stamp >= self._key)
            self._joined = not (reached or frame.key_frame)
        return not self._joined
