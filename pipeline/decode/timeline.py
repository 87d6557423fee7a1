"""When each decoded frame is displayed, from whatever its container says.

In: frames in the order in which the decoder hands them out, which is the order of display. Out:
times that only ever grow. Timestamps of real files are missing (AVI stores none), repeat, start
anywhere (edit lists, transport streams) and start over (recordings put end to end).
"""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(slots=True)
class Timeline:
    """Gives each frame its time, in seconds as an exact fraction.

    1. A frame's own presentation timestamp counts; without one, the decoding timestamp of the
       packet that brought it out (equal in a container that knows no other), else the end of the
       frame before.
    2. A time that does not lie after the frame before becomes the end of the frame before.
    3. A step back by more than `RESTART_S` is a clock that started over: it and all that follows
       are moved to the end of the frame before.
    """

    time_base: Fraction
    nominal_s: Fraction
    """How long a frame stands if the container does not say."""

    _start: Fraction | None = None
    _end: Fraction = Fraction(0)
    _shift: Fraction = Fraction(0)

    RESTART_S = 1

    def place(
        self, pts: int | None, dts: int | None, duration: int | None
    ) -> tuple[Fraction, Fraction]:
        """Return `(start_s, duration_s)` of the next frame.

        Args:
            pts: presentation timestamp, in units of the time base.
            dts: decoding timestamp, likewise.
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
