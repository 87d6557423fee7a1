"""What a person sees of a running job: a live line in a terminal, now and then a line in a log.

Built from a few numbers on the driver; nothing in it grows with the job.
"""

import time
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_EVERY_S: Final = 10.0


_WINDOW_S: Final = 60.0


class Progress(Protocol):
    """Where the driver reports to; a test or another program may bring its own."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def begin(self, units: int) -> None:
        """Start counting towards a number of units."""

    def clips(self, count: int) -> None:
        """Count clips that were tokenized."""

    def unit(self, *, failed: bool) -> None:
        """Count a unit that was written, or put back."""

    def tick(self) -> None:
        """Show the time passing; called a few times a second."""

    def end(self) -> None:
        """Stop counting."""


class Meter:
    """Counts, rates and the time left."""

    def __init__(self, units: int, now: float) -> None:
        self.units = units
        self.done = 0
        self.failed = 0
        self.num_clips = 0
        self._began = now
        self._marks: list[tuple[float, int]] = [(now, 0)]

    def line(self, now: float) -> str:
        """Return the state in one line."""
        self._marks.append((now, self.num_clips))
        while len(self._marks) > 2 and self._marks[1][0] < now - _WINDOW_S:
            self._marks.pop(0)
        since, then = self._marks[0]
        rate = (self.num_clips - then) / (now - since) if now > since else 0.0
        failed = f" · {self.failed} put back" if self.failed else ""
        return (
            f"{self.done}/{self.units} units · {self.num_clips} clips · {rate:.1f} clips/s{failed}"
            f" · {_clock(now - self._began)} · left {self._left(now)}"
        )

    def left_s(self, now: float) -> float | None:
        """Return the seconds left at the pace so far, or None before the first unit is done."""
        if not self.done:
            return None
        return (now - self._began) / self.done * (self.units - self.done)

    def _left(self, now: float) -> str:
        left_s = self.left_s(now)
        return "?" if left_s is None else _clock(left_s)


class ConsoleProgress:
    """Progress on a rich console: live if it is a terminal, else a line every ten seconds."""

    def __init__(self, console: Console, every_s: float = PLAIN_EVERY_S) -> None:
        self._console = console
        self._every_s = every_s
        self._meter: Meter | None = None
        self._live: Live | None = None
        self._shown = 0.0

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self._console.print(Text(text), soft_wrap=True)

    def begin(self, units: int) -> None:
        """Start counting, in a terminal with a live line."""
        self._shown = time.monotonic()
        self._meter = Meter(units, self._shown)
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def clips(self, count: int) -> None:
        """Count clips that were tokenized."""
        if self._meter:
            self._meter.num_clips += count

    def unit(self, *, failed: bool) -> None:
        """Count a unit that was written, or put back."""
        if self._meter:
            self._meter.failed += failed
            self._meter.done += not failed

    def tick(self) -> None:
        """Show the state if it is time to."""
        now = time.monotonic()
        if self._meter is None or now - self._shown < (0.2 if self._live else self._every_s):
            return
        self._shown = now
        line = f"run        {self._meter.line(now)}"
        if self._live:
            self._live.update(Text(line), refresh=True)
        else:
            self.say(line)

    def end(self) -> None:
        """Stop counting and take the live line away."""
        if self._live:
            self._live.stop()
        self._live = None
        self._meter = None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
