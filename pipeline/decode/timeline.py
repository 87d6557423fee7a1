"""Display time of each decoded frame, from the container's timestamps.

In: frames in the decoder's output order, which is the order of display. Out: times that strictly
increase. Timestamps of real files are missing (AVI stores none), repeat, start anywhere (edit
lists, transport streams) and restart (joined recordings).
"""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(slots=True)
class Timeline:
    """Gives each frame its time, in seconds as an exact fraction.

    1. A frame's own presentation timestamp counts. Without one, the decoding timestamp of its
       packet counts; without both, the end of the previous frame.
    2. A time that is not after the previous frame becomes the end of the previous frame.
    3. A step back by more than `RESTART_S` is a clock that restarted: this and all later times are
       shifted to the end of the previous frame.
    """

    time_base: Fraction
    nominal_s: Fraction
    """Duration of a frame in seconds if the container does not declare it."""

    _start: Fraction | None = None
    _end: Fraction = Fraction(0)
    _shift: Fraction = Fraction(0)

    RESTART_S = 1

    def display_time(
        self, pts: int | None, dts: int | None, duration: int | None
    ) -> tuple[Fraction, Fraction]:
        """Return `(start_s, duration_s)` of the next frame.

        Args:
            pts: presentation timestamp, in units of the time base.
            dts: decoding timestamp, in the same units.
            duration: in the same units; None or 0 when unknown.
        """
        stamp = dts if pts is None else pts
        start = self._end if stamp is None else stamp * self.time_base + self._shift
        if self._start is not None and start <= self._start:
            if start < self._start - self.RESTART_S:
                self._shift += self._end - start
            start = self._end
        length = duration * self.time_base if duration and duration > 0 else self.nominal_s
        self._start, self._end = start, start + length
        return start, length
