"""What the driver reports of a run: units, commits, quarantine, and the time left.

Counters of the log come from the same tally as the summary, as differences to the last report. So
they add up with the summary, whatever is replayed.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Final

from pipeline.dataset.tally import Tally
from pipeline.job.log_buffer import LogBuffer
from pipeline.job.metrics.metrics import (
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
from pipeline.job.progress import seconds_left

_EVERY_S: Final = 1.0


class JobMetrics:
    """Reports a run at most once a second.

    Args:
        recorder: receives the values.
        planned: number of units of the plan.
        attempts: number of failures after which a unit is not retried.
        failures: unit → its failures, of units that are not done; the driver keeps it up to date.
    """

    def __init__(
        self, recorder: Recorder, planned: int, attempts: int, failures: Mapping[str, int]
    ) -> None:
        self.recorder = recorder
        self._planned = planned
        self._attempts = attempts
        self._failures = failures
        self._reported: dict[tuple[Metric, str], int] = {}
        self._open_units = self._rows_held = 0
        self._units = self._done = 0
        """Units of this pass, and those of them that are done."""
        self._began = 0.0
        self._committed = 0
        """Units that were committed when the pass began, less those of the log buffer."""
        self._due = 0.0

    def begin(self, units: int, remaining: int, log: LogBuffer) -> None:
        """Begin a pass over `units` units; the log does not hold `remaining` units yet."""
        self._units, self._done, self._began = units, 0, time.monotonic()
        self._committed = self._planned - remaining - _taken(log)

    def in_flight(self, open_units: int, rows_held: int) -> None:
        """Set the numbers of open units and of their tokenized rows."""
        self._open_units, self._rows_held = open_units, rows_held

    def unit_done(self) -> None:
        """Count a unit whose parts are written."""
        self._done += 1

    def report_if_due(self, log: LogBuffer) -> None:
        """Report if the last report is a second old."""
        if time.monotonic() >= self._due:
            self.report(log)

    def report(self, log: LogBuffer) -> None:
        """Report now."""
        now = time.monotonic()
        self._due = now + _EVERY_S
        for metric, label, value in _log_counters(log.ours):
            before = self._reported.get((metric, label), 0)
            labels = {metric.labels[0]: label} if metric.labels else {}
            self.recorder.add(metric, value - before, **labels)
            self._reported[metric, label] = value
        counts = [count for count in self._failures.values() if count]
        failed = sum(count >= self._attempts for count in counts)
        states = {
            "planned": self._planned,
            "committed": self._committed + _taken(log),
            "open": self._open_units,
            "put_back": len(counts) - failed,
            "failed": failed,
        }
        for state, count in states.items():
            self.recorder.set(UNITS, count, state=state)
        self.recorder.set(ROWS_HELD, self._rows_held)
        if (left := seconds_left(now - self._began, self._done, self._units)) is not None:
            self.recorder.set(SECONDS_LEFT, left)


def _taken(log: LogBuffer) -> int:
    """Return the units that this run did and that the log holds, whoever committed them first."""
    return log.ours.units + log.num_lost


def _log_counters(tally: Tally) -> Iterator[tuple[Metric, str, int]]:
    """Yield the values of the log's counters: metric, value of its label, count."""
    counts = tally.counts
    yield COMMITS, "", tally.units
    yield CLIPS, COMMIT, counts.clips_written
    yield SAMPLES, "with_clips", counts.samples_with_clips
    yield SAMPLES, "filtered", counts.samples_filtered
    yield SAMPLES, "quarantined", counts.samples_quarantined
    for reason, count in tally.reasons.items():
        yield QUARANTINED, reason, count
