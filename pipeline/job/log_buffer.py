"""Groups unit records into appends to the commit log, and waits for a store that fails."""

import logging
import time
from typing import Final

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.tally import Tally
from pipeline.errors import StoreError

_log = logging.getLogger(__name__)

_BRIDGE_S: Final = 600.0
"""Seconds for which a store may fail before the job ends."""

_BACKOFF_S: Final = (1.0, 2.0, 4.0, 8.0, 16.0)

_PAUSE_PER_S: Final = 20.0
"""Seconds between appends for each second of the last one. Where many drivers share a log, each
appends more units at once."""

_LONGEST_PAUSE_S: Final = 60.0
"""Maximum of these seconds: work that a crash of the driver can lose."""


class LogBuffer:
    """Collects records for some seconds, then appends them in one record of the log.

    Args:
        log: the commit log.
        every_s: seconds between appends, or more if they take long.

    Attributes:
        ours: sums over the units that this driver committed.
        num_lost: number of units that another driver committed first.
    """

    def __init__(self, log: CommitLog, every_s: float) -> None:
        self.log = log
        self.ours = Tally()
        self.num_lost = 0
        self._every_s = every_s
        self._waiting: dict[str, UnitRecord] = {}
        self._due = time.monotonic() + every_s
        self._failing_since: float | None = None

    def add(self, record: UnitRecord) -> None:
        """Add a unit whose parts are written."""
        self._waiting[record.unit] = record

    def flush_if_due(self) -> None:
        """Append the collected records if the next append is due.

        Raises:
            StoreError: the store has failed for ten minutes.
        """
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + self._every_s
        try:
            self._append()
        except StoreError:
            self._failing_since = self._failing_since or now
            if now - self._failing_since > _BRIDGE_S:
                raise
        else:
            took_s = time.monotonic() - now
            self._due = max(self._due, now + min(_LONGEST_PAUSE_S, _PAUSE_PER_S * took_s))

    def flush(self) -> None:
        """Append the collected records now.

        Raises:
            StoreError: the store still fails after several tries.
        """
        for pause_s in _BACKOFF_S:
            try:
                return self._append()
            except StoreError:
                time.sleep(pause_s)
        return self._append()

    def _append(self) -> None:
        if self._waiting:
            outcome = self.log.append(self._waiting.values())
            for unit in outcome.ours:
                self.ours.add(self._waiting[unit])
            self.num_lost += len(outcome.lost)
            for unit in outcome.dropped:
                _log.warning(
                    "%s: vacuum dropped the files of this unit; the unit is processed again", unit
                )
            for unit in outcome.forgotten:
                _log.warning(
                    "%s: this unit holds forgotten samples; it is processed again without them",
                    unit,
                )
            self._waiting = {}
        self._failing_since = None
