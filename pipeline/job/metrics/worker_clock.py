"""How a worker spends its time: waiting for input, busy, or blocked while it hands a row over."""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from pipeline.job.metrics.metrics import WORKER_SECONDS, Recorder

WAITING, BUSY, BLOCKED = "waiting", "busy", "blocked"
"""Values of the label `state`."""


REPORT_EVERY_S: Final = 5.0
"""Seconds between the reports of a worker that gets no calls."""


class WorkerClock:
    """Divides the time since its start among the three states.

    Calls may overlap: the worker is busy while any call runs, and the seconds of all states add up
    to those of the clock. A thread reports every few seconds, also while a worker gets no calls.

    Args:
        stage: value of the label `stage`.
        recorder: receives the seconds.
    """

    def __init__(self, stage: str, recorder: Recorder) -> None:
        self._stage = stage
        self._recorder = recorder
        self._lock = threading.Lock()
        self._calls = self._blocked = 0
        self._since = time.monotonic()
        self._seconds: dict[str, float] = {}
        threading.Thread(target=self._report, daemon=True).start()

    def call(self) -> AbstractContextManager[None]:
        """Count a call as busy."""
        return self._during(calls=1)

    def handing_over(self) -> AbstractContextManager[None]:
        """Count time inside a call as blocked: around a `yield` that returns when there is room."""
        return self._during(blocked=1)

    @contextmanager
    def _during(self, *, calls: int = 0, blocked: int = 0) -> Iterator[None]:
        self._move(calls=calls, blocked=blocked)
        try:
            yield
        finally:
            self._move(calls=-calls, blocked=-blocked)

    def take(self) -> dict[str, float]:
        """Return the seconds by state since the last `take`."""
        self._move()
        with self._lock:
            seconds, self._seconds = self._seconds, {}
        return seconds

    def _move(self, *, calls: int = 0, blocked: int = 0) -> None:
        """Add the time up to now to the current state, then change the state."""
        with self._lock:
            if not self._calls:
                state = WAITING
            else:
                state = BLOCKED if self._blocked == self._calls else BUSY
            now = time.monotonic()
            seconds, self._since = now - self._since, now
            self._seconds[state] = self._seconds.get(state, 0.0) + seconds
            self._calls += calls
            self._blocked += blocked
        self._recorder.add(WORKER_SECONDS, seconds, stage=self._stage, state=state)

    def _report(self) -> None:
        while True:
            time.sleep(REPORT_EVERY_S)
            self._move()
