"""Drivers that append at once wait for a random time, longer after each loss."""

from types import SimpleNamespace

import pytest

from pipeline.dataset.log import commit_log
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.storage.store import Store
from tests.pipeline.units import make_record

UNITS = [make_record(f"u-{n}") for n in range(40)]


def test_writers_that_lose_wait_and_read_what_follows(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first time a writer is perhaps only behind; each further loss doubles the limit."""
    log, other = (CommitLog(local, fingerprint="fp") for _ in range(2))
    for unit in UNITS[:20]:
        other.append([unit])
    waits: list[float] = []
    monkeypatch.setattr(commit_log, "time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr(commit_log.random, "uniform", lambda low, high: high)
    assert log.append(UNITS[20:21]).ours == ("u-20",)
    assert (log.number, waits) == (21, [])

    put = Store.put_or_read
    taken = iter(UNITS[21:30])

    def lose(store: Store, path: str, data: bytes) -> bytes:
        monkeypatch.setattr(Store, "put_or_read", put)
        if (unit := next(taken, None)) is not None:
            other.append([unit])
            monkeypatch.setattr(Store, "put_or_read", lose)
        return put(store, path, data)

    monkeypatch.setattr(Store, "put_or_read", lose)
    assert log.append(UNITS[30:31]).ours == ("u-30",)
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]
