"""What the driver reports of a run: units, commits, quarantine, and the time left.

Figures of the log are taken from the same tally as the summary, as differences to what was reported
before; so they add up with it, whatever is replayed.
"""

import time
from collections.abc import Iterator
from typing import Final

from pipeline.dataset.tally import Tally
from pipeline.job.log_buffer import LogBuffer
from pipeline.job.metrics import (
    CLIPS,
    COMMIT,
    COMMITS,
    QUARANTINED,
    ROWS_HELD,
    SAMPLES,
    SECONDS_LEFT,
    UNITS,
    Metric,
    Recorder,
)
from pipeline.job.progress import Meter

_EVERY_S: Final = 1.0


class JobMetrics:
    """Reports a run at most once a second.

    Args:
        recorder: where to.
        planned: units of the plan.
        attempts: failures after which a unit is not put back again.
    """

    def __init__(self, recorder: Recorder, planned: int, attempts: int) -> None:
        self.recorder = recorder
        self._planned = planned
        self._attempts = attempts
        self._failures: dict[str, int] = {}
        """Of the units that are not committed."""
        self._reported: dict[tuple[Metric, str], int] = {}
        self._open_units = self._rows_held = 0
        self._meter = Meter(0, 0.0)
        self._committed = 0
        """When the pass began; what the log took since is in the log buffer."""
        self._due = 0.0

    def begin(self, units: int, left: int, log: LogBuffer) -> None:
        """Begin a pass over `units` units; `left` are not in the log yet."""
        self._meter = Meter(units, time.monotonic())
        self._committed = self._planned - left - _taken(log)

    def in_flight(self, open_units: int, rows_held: int) -> None:
        """Take note of what is under way."""
        self._open_units, self._rows_held = open_units, rows_held

    def unit_done(self, unit: str) -> None:
        """Count a unit whose parts are written."""
        self._meter.done += 1
        self._failures.pop(unit, None)

    def unit_failed(self, unit: str) -> None:
        """Count a unit that did not come through this pass."""
        self._failures[unit] = self._failures.get(unit, 0) + 1

    def report_if_due(self, log: LogBuffer) -> None:
        """Report if the last time was a second ago."""
        if time.monotonic() >= self._due:
            self.report(log)

    def report(self, log: LogBuffer) -> None:
        """Report now."""
        now = time.monotonic()
        self._due = now + _EVERY_S
        for metric, label, value in _log_figures(log.ours):
            before = self._reported.get((metric, label), 0)
            labels = {metric.labels[0]: label} if metric.labels else {}
            self.recorder.add(metric, value - before, **labels)
            self._reported[metric, label] = value
        failed = sum(count >= self._attempts for count in self._failures.values())
        states = {
            "planned": self._planned,
            "committed": self._committed + _taken(log),
            "open": self._open_units,
            "put_back": len(self._failures) - failed,
            "failed": failed,
        }
        for state, count in states.items():
            self.recorder.set(UNITS, count, state=state)
        self.recorder.set(ROWS_HELD, self._rows_held)
        if (left := self._meter.left_s(now)) is not None:
            self.recorder.set(SECONDS_LEFT, left)


def _taken(log: LogBuffer) -> int:
    """Return the units that this run did and that the log holds, whoever was first."""
    return log.ours.units + log.num_lost


def _log_figures(tally: Tally) -> Iterator[tuple[Metric, str, int]]:
    """Yield what the log's counters stand at: metric, value of its label, count."""
    counts = tally.counts
    yield COMMITS, "", tally.units
    yield CLIPS, COMMIT, counts.clips_written
    yield SAMPLES, "with_clips", counts.samples_with_clips
    yield SAMPLES, "filtered", counts.samples_filtered
    yield SAMPLES, "quarantined", counts.samples_quarantined
    for reason, count in tally.reasons.items():
        yield QUARANTINED, reason, count
