"""Records wait some seconds for each other, and outlast a store that fails for a while."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from pipeline.dataset.log.commit_log import Appended
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.errors import StoreError
from pipeline.job import log_buffer
from pipeline.job.log_buffer import LogBuffer


@dataclass
class FakeLog:
    refuses: int = 0
    lost: set[str] = field(default_factory=set)
    groups: list[list[str]] = field(default_factory=list)

    def append(self, units: "list[UnitRecord]") -> Appended:
        names = [unit.unit for unit in units]
        if self.refuses:
            self.refuses -= 1
            raise StoreError("503")
        self.groups.append(names)
        return Appended(
            ours=tuple(n for n in names if n not in self.lost),
            lost=tuple(n for n in names if n in self.lost),
        )


def unit(name: str) -> UnitRecord:
    return UnitRecord(
        unit=name,
        sources=(name,),
        parts=(),
        quarantine=None,
        counts=Counts(),
        reasons={},
        statistics={},
    )


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]
    passing = SimpleNamespace(
        monotonic=lambda: clock[0],
        sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds),
    )
    monkeypatch.setattr(log_buffer, "time", passing)
    return clock


def test_units_of_some_seconds_share_a_record(now: list[float]) -> None:
    log = FakeLog(lost={"b"})
    buffer = LogBuffer(log, every_s=5.0)  # type: ignore[arg-type]
    for second, name in enumerate("abcdefg"):
        now[0] = float(second)
        buffer.add(unit(name))
        buffer.flush_if_due()
    assert log.groups == [["a", "b", "c", "d", "e", "f"]]
    buffer.flush()
    assert log.groups[1:] == [["g"]]
    assert (buffer.ours.units, buffer.num_lost) == (6, 1)
    buffer.flush()
    assert len(log.groups) == 2, "an empty group is not a record"


def test_slow_appends_are_rarer_and_larger(now: list[float]) -> None:
    """Many drivers share the log: this one waits 20 times as long as its append took."""

    class SlowLog(FakeLog):
        def append(self, units: "list[UnitRecord]") -> Appended:
            now[0] += 2.0
            return super().append(units)

    log = SlowLog()
    buffer = LogBuffer(log, every_s=5.0)  # type: ignore[arg-type]
    for n in range(60):
        buffer.add(unit(str(n)))
        now[0] += 1.0
        buffer.flush_if_due()
    assert [len(group) for group in log.groups] == [5, 38]


def test_a_store_that_fails_for_minutes_is_waited_for(now: list[float]) -> None:
    log = FakeLog(refuses=100)
    buffer = LogBuffer(log, every_s=5.0)  # type: ignore[arg-type]
    buffer.add(unit("a"))
    for _ in range(100):
        now[0] += 5.0
        buffer.flush_if_due()
    now[0] += 5.0
    buffer.flush_if_due()
    assert log.groups == [["a"]]


def test_a_store_that_fails_for_good_ends_the_job(now: list[float]) -> None:
    buffer = LogBuffer(FakeLog(refuses=10**6), every_s=5.0)  # type: ignore[arg-type]
    buffer.add(unit("a"))
    with pytest.raises(StoreError):  # noqa: PT012 - which of the calls raises is the store's affair
        while now[0] < 1000:
            now[0] += 5.0
            buffer.flush_if_due()
    assert 600 <= now[0] < 620
    with pytest.raises(StoreError):
        buffer.flush()


def test_the_last_append_is_tried_several_times(now: list[float]) -> None:
    log = FakeLog(refuses=5)
    buffer = LogBuffer(log, every_s=5.0)  # type: ignore[arg-type]
    buffer.add(unit("a"))
    buffer.flush()
    assert log.groups == [["a"]]
