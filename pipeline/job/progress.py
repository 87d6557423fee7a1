"""What a user sees of a running job: a progress bar on a terminal, a line now and then in a log."""

import time
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from pipeline.formatting import counted, format_duration, visible

PLAIN_EVERY_S: Final = 10.0
"""Seconds between the lines in a log."""

_RATE_WINDOW_S: Final = 60.0
"""Seconds over which the rate is averaged."""


class Progress(Protocol):
    """Receives the events of a run; a test or another program may bring its own."""

    def say(self, text: str) -> None:
        """Show a line that stays."""

    def begin(self, units: int) -> None:
        """Begin a pass over a number of units."""

    def clips(self, count: int) -> None:
        """Count clips that were tokenized."""

    def unit(self, *, failed: bool) -> None:
        """Count a unit that was written, or whose attempt failed."""

    def tick(self) -> None:
        """Update the display; called a few times a second."""

    def end(self) -> None:
        """End the pass."""


def seconds_left(elapsed_s: float, done: int, units: int) -> float | None:
    """Return the seconds left at the average pace so far; None before the first unit is done."""
    return elapsed_s / done * (units - done) if done else None


class ConsoleProgress:
    """Progress on a rich console: a bar if it is a terminal, else a line every ten seconds.

    Args:
        console: where it is shown; None takes stdout.
        every_s: seconds between lines.
    """

    def __init__(self, console: Console | None = None, every_s: float = PLAIN_EVERY_S) -> None:
        self._console = console or Console(highlight=False)
        self._every_s = 0.2 if self._console.is_terminal else every_s
        self._bar: Bar | None = None
        self._failed = 0
        self._shown = 0.0

    def say(self, text: str) -> None:
        """Show a line that stays."""
        self._console.print(Text(visible(text)), soft_wrap=True)

    def begin(self, units: int) -> None:
        """Begin a pass over a number of units."""
        self._failed, self._shown = 0, time.monotonic()
        self._bar = Bar(
            TextColumn("run       "),
            BarColumn(),
            TextColumn("{task.description}"),
            console=self._console,
            auto_refresh=False,
            transient=True,
            disable=not self._console.is_terminal,
            get_time=time.monotonic,
            speed_estimate_period=_RATE_WINDOW_S,
        )
        self._units = self._bar.add_task("", total=units)
        self._clips = self._bar.add_task("", total=None, visible=False)
        self._bar.advance(self._clips, 0)  # the rate counts from here
        self._bar.start()

    def clips(self, count: int) -> None:
        """Count clips that were tokenized."""
        if self._bar:
            self._bar.advance(self._clips, count)

    def unit(self, *, failed: bool) -> None:
        """Count a unit that was written, or whose attempt failed."""
        self._failed += failed
        if self._bar and not failed:
            self._bar.advance(self._units)

    def tick(self) -> None:
        """Update the bar, or print a line if the last one is old enough."""
        now = time.monotonic()
        if self._bar is None or now - self._shown < self._every_s:
            return
        self._shown = now
        self._bar.advance(self._clips, 0)  # time without clips lowers the rate
        line = self._line(self._bar)
        if self._console.is_terminal:
            self._bar.update(self._units, description=line, refresh=True)
        else:
            self.say(f"run        {line}")

    def end(self) -> None:
        """End the pass and remove the bar."""
        if self._bar:
            self._bar.stop()
        self._bar = None

    def _line(self, bar: Bar) -> str:
        units, clips = bar.tasks
        if not clips.completed and not units.completed:
            of = counted(round(units.total or 0), "unit")
            waits = f"{format_duration(units.elapsed or 0)} elapsed"
            return f"{of} · starting, no clips yet{self._failures()} · {waits}"
        done, total, elapsed_s = round(units.completed), round(units.total or 0), units.elapsed or 0
        left_s = seconds_left(elapsed_s, done, total)
        left = "" if left_s is None else f" · {format_duration(left_s)} left"
        return (
            f"{done}/{counted(total, 'unit')} · {counted(round(clips.completed), 'clip')}"
            f" · {clips.speed or 0:.1f} clips/s{self._failures()}"
            f" · {format_duration(elapsed_s)} elapsed{left}"
        )

    def _failures(self) -> str:
        return f" · {self._failed} failed" if self._failed else ""
