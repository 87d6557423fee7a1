"""What driver and workers report adds up with what they did."""

import pickle
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config.job import JobConfig
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.job.log_buffer import LogBuffer
from pipeline.job.metrics import worker_clock
from pipeline.job.metrics.metrics import (
    CLIPS,
    COMMITS,
    METRICS,
    QUARANTINED,
    ROWS,
    ROWS_HELD,
    SAMPLES,
    SECONDS_LEFT,
    UNITS,
    WORKER_SECONDS,
    Metric,
)
from pipeline.job.metrics.ray_metrics import RayRecorder
from pipeline.job.metrics.run_metrics import JobMetrics
from pipeline.job.metrics.worker_clock import WorkerClock
from pipeline.job.workers import DecodeWorker, WorkerSettings
from pipeline.records import LooseFile, WorkUnit, from_json, to_json
from pipeline.stages.messages import CLOSING, Closing, payload_row
from pipeline.storage.store import Store
from tests.assets import VIDEOS
from tests.pipeline.job.test_summary import UNIT


class Recorded:
    """A recorder that keeps the values, and refuses what Prometheus would."""

    def __init__(self) -> None:
        self.values: Counter[tuple[str, ...]] = Counter()

    def add(self, metric: Metric, value: float, **labels: str) -> None:
        assert metric.kind == "counter"
        assert value >= 0
        self.values[self._series(metric, labels)] += value  # type: ignore[assignment]

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        assert metric.kind == "gauge"
        self.values[self._series(metric, labels)] = value  # type: ignore[assignment]

    def _series(self, metric: Metric, labels: dict[str, str]) -> tuple[str, ...]:
        assert metric in METRICS
        assert tuple(labels) == metric.labels
        return (metric.name, *labels.values())

    def of(self, metric: Metric, *labels: str) -> float:
        return self.values[metric.name, *labels]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test moves."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


@pytest.fixture
def buffer(tmp_path: Path) -> LogBuffer:
    return LogBuffer(CommitLog(Store(str(tmp_path)), fingerprint="f", run="r"), every_s=5.0)


def test_names_are_those_of_prometheus() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert CLIPS.exported == "ray_vidtok_clips_total"
    assert UNITS.exported == "ray_vidtok_units"
    for metric in METRICS:
        assert metric.name.startswith("vidtok_")
        assert "run" not in metric.labels, "that is the recorder's"


def test_the_log_is_reported_once(buffer: LogBuffer, now: list[float]) -> None:
    recorded = Recorded()
    metrics = JobMetrics(recorded, planned=10, attempts=3, failures={})
    metrics.begin(units=7, remaining=7, log=buffer)
    for n in range(3):
        record = replace(UNIT, unit=f"u{n}", sources=(f"/u{n}.tar",))
        metrics.unit_done()
        buffer.add(record)
        buffer.flush()
        now[0] += 1
        metrics.report(buffer)
        metrics.report(buffer)
    ours = buffer.ours
    assert recorded.of(COMMITS) == ours.units == 3
    assert recorded.of(CLIPS, "commit") == ours.counts.clips_written == 12
    assert recorded.of(SAMPLES, "quarantined") == ours.counts.samples_quarantined == 3
    assert sum(recorded.of(SAMPLES, name) for name in ("with_clips", "filtered")) == 6
    for reason, count in ours.reasons.items():
        assert recorded.of(QUARANTINED, reason) == count == 3
    assert recorded.of(UNITS, "planned") == 10
    assert recorded.of(UNITS, "committed") == 6, "3 before this run, 3 by it"
    assert recorded.of(SECONDS_LEFT) == pytest.approx(4.0), "a second per unit"


def test_failed_units_are_counted_until_they_are_done(buffer: LogBuffer) -> None:
    recorded = Recorded()
    failures = Counter({"u": 1, "v": 1, "w": 0})
    metrics = JobMetrics(recorded, planned=2, attempts=2, failures=failures)
    metrics.begin(2, 2, buffer)
    metrics.in_flight(1, 4)
    metrics.report(buffer)
    assert (recorded.of(UNITS, "put_back"), recorded.of(UNITS, "failed")) == (2, 0)
    assert (recorded.of(UNITS, "open"), recorded.of(ROWS_HELD)) == (1, 4)
    assert ("vidtok_seconds_left",) not in recorded.values, "unknown before a unit is done"
    metrics.begin(2, 2, buffer)
    failures["u"] += 1
    failures.pop("v")
    metrics.report(buffer)
    assert (recorded.of(UNITS, "put_back"), recorded.of(UNITS, "failed")) == (0, 1)


def test_a_pass_counts_what_the_ones_before_committed(buffer: LogBuffer) -> None:
    recorded = Recorded()
    metrics = JobMetrics(recorded, planned=5, attempts=3, failures={})
    metrics.begin(5, 5, buffer)
    buffer.add(UNIT)
    buffer.flush()
    # Another driver did one unit meanwhile: it is not in the plan of the second pass.
    metrics.begin(3, 3, buffer)
    metrics.report(buffer)
    assert recorded.of(UNITS, "committed") == 2
    buffer.add(replace(UNIT, unit="v", sources=("/v.tar",)))
    buffer.flush()
    metrics.report(buffer)
    assert recorded.of(UNITS, "committed") == 3


def test_reports_are_a_second_apart(buffer: LogBuffer, now: list[float]) -> None:
    recorded = Recorded()
    metrics = JobMetrics(recorded, planned=5, attempts=3, failures={})
    metrics.begin(5, 5, buffer)
    metrics.report_if_due(buffer)
    metrics.in_flight(2, 3)
    now[0] += 0.9
    metrics.report_if_due(buffer)
    assert recorded.of(ROWS_HELD) == 0
    now[0] += 0.2
    metrics.report_if_due(buffer)
    assert recorded.of(ROWS_HELD) == 3


def test_a_worker_s_seconds_add_up_whatever_overlaps(now: list[float]) -> None:
    recorded = Recorded()
    clock = WorkerClock("tokenize", recorded)
    now[0] += 3  # waiting
    with clock.call():
        now[0] += 1
        with clock.call():
            now[0] += 5
        first = clock.take()
        now[0] += 1
    now[0] += 2  # waiting
    with clock.call():
        now[0] += 4
        with clock.handing_over():
            now[0] += 8  # blocked
        second = clock.take()
    assert first == {"waiting": 3, "busy": 6}
    assert second == {"busy": 5, "waiting": 2, "blocked": 8}
    by_state = {state: recorded.of(WORKER_SECONDS, "tokenize", state) for state in second}
    assert by_state == {"waiting": 5, "busy": 11, "blocked": 8}


def test_a_starving_worker_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_clock, "REPORT_EVERY_S", 0.01)
    recorded = Recorded()
    WorkerClock("tokenize", recorded)
    deadline = time.monotonic() + 60
    while not recorded.of(WORKER_SECONDS, "tokenize", "waiting") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert recorded.of(WORKER_SECONDS, "tokenize", "waiting") > 0


def worker_settings() -> WorkerSettings:
    values = {
        "source": {"uri": "unused"},
        "clip": {"frames": 5, "height": 32, "width": 40, "fps": 8.0},
        "tokenizers": [{"name": "fsq", "model": "unused", "batch": 4}],
        "output": {"uri": "unused"},
    }
    return WorkerSettings(
        config=JobConfig.model_validate(values), columns=[], digests=[], levels={}, device="cpu"
    )


def decode_row(unit: WorkUnit, *, one_by_one: bool = False) -> dict[str, NDArray[Any]]:
    """Return what Ray Data hands to a decode worker."""
    text = np.array([to_json(unit).decode()], dtype=object)
    return {"unit": text, "one_by_one": np.array([one_by_one])}


def test_a_decode_worker_counts_its_rows_and_time() -> None:
    recorded = Recorded()
    worker = DecodeWorker(worker_settings(), recorded)
    video = LooseFile(key="k", uri=str(VIDEOS / "hiker_tiny.mp4"))
    unit = WorkUnit(unit="u", files=(video,))
    try:
        rows = list(worker(decode_row(unit)))
    finally:
        worker.close()
    assert rows[-1]["kind"][0] == CLOSING
    closing = from_json(Closing, bytes(rows[-1]["header"][0]))
    assert recorded.of(CLIPS, "decode") == closing.counts.clips_written > 4
    assert recorded.of(ROWS, "decode") == len(rows) - 1 > 1
    assert recorded.of(WORKER_SECONDS, "decode", "busy") >= closing.timings["decode"]
    assert recorded.of(WORKER_SECONDS, "decode", "blocked") > 0


def test_a_payload_row_says_what_the_actor_did() -> None:
    row = payload_row(Closing(unit="u", digests=(), counts=UNIT.counts), waiting_s=2.0, busy_s=1.0)
    assert (row["waiting_s"].to_pylist(), row["busy_s"].to_pylist()) == ([2.0], [1.0])


def test_a_recorder_travels_and_takes_no_zero() -> None:
    recorder = RayRecorder("r")
    recorder.add(COMMITS, 1)
    recorder.add(COMMITS, 0)
    recorder.set(UNITS, 0, state="failed")
    there: RayRecorder = pickle.loads(pickle.dumps(recorder))
    there.add(CLIPS, 2, stage="commit")
    with pytest.raises(ValueError, match="Missing value for tag"):
        there.add(CLIPS, 2)
