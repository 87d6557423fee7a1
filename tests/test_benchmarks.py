"""What the benchmarks compute from what they record."""

import pytest

from benchmarks.waiting import waited
from pipeline.job.metrics import DECODE, ROWS, TOKENIZE, WORKER_SECONDS

Event = tuple[float, str, float, dict[str, str]]


def _row(at: float, stage: str) -> Event:
    return at, ROWS.name, 1, {"stage": stage}


def _spent(until: float, seconds: float, stage: str, state: str) -> Event:
    return until, WORKER_SECONDS.name, seconds, {"stage": stage, "state": state}


def test_waiting_counts_from_the_first_row_and_apart_while_rows_lie_ready() -> None:
    events = [
        _spent(12.0, 12.0, TOKENIZE, "waiting"),  # 10 to 12 counts, and a row lies ready
        _spent(15.0, 3.0, TOKENIZE, "busy"),
        _spent(17.0, 2.0, TOKENIZE, "waiting"),  # nothing ready until 16.5
        _spent(20.0, 3.0, TOKENIZE, "busy"),
        _spent(30.0, 10.0, TOKENIZE, "waiting"),  # after the last row
        _spent(20.0, 20.0, DECODE, "waiting"),
        _row(10.0, DECODE),
        _row(15.0, TOKENIZE),
        _row(16.5, DECODE),
        _row(20.0, TOKENIZE),
    ]
    assert waited(events) == (pytest.approx(0.4), pytest.approx(0.25))
