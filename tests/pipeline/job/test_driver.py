"""What the driver makes of the passes over its units, without Ray: a pass here is a list of events.

Passes on a real cluster are in `tests/jobs`.
"""

import json
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.cluster import Cluster
from pipeline.config.job import JobConfig
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.errors import ConfigError, OverBudget
from pipeline.job import driver
from pipeline.job.collector import Event, UnitDone, UnitFailed
from pipeline.job.driver import run
from pipeline.job.precision import require_fast_precision
from pipeline.operations.status import status
from pipeline.records import WorkUnit, unit_sources
from pipeline.storage.store import Store

LOST = "file_unreadable"


class Recorder:
    def __init__(self, run: str) -> None: ...
    def add(self, metric: Any, value: float, **labels: str) -> None: ...
    def set(self, metric: Any, value: float, **labels: str) -> None: ...


class Progress:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, units: int) -> None: ...
    def clips(self, count: int) -> None: ...
    def unit(self, *, failed: bool) -> None: ...
    def tick(self) -> None: ...
    def end(self) -> None: ...


class Passes:
    """Stands for `run_pass`; remembers which units each pass has, and how."""

    def __init__(self, outcome: Callable[[WorkUnit], Event]) -> None:
        self.units: list[list[str]] = []
        self.most_together: list[int] = []
        self.careful: list[bool] = []
        self.one_by_one: list[int] = []
        self._outcome = outcome

    def __call__(
        self,
        bundles: list[tuple[WorkUnit, ...]],
        *given: Any,
        careful: bool,
        one_by_one: Collection[str],
    ) -> Iterator[Event]:
        units = [unit for bundle in bundles for unit in bundle]
        self.units.append([unit.unit for unit in units])
        self.most_together.append(max(map(len, bundles)))
        self.careful.append(careful)
        self.one_by_one.append(len(one_by_one))
        yield from map(self._outcome, units)


def record(unit: WorkUnit, reason: str | None = None) -> UnitRecord:
    """Return the record of a unit with one sample, which is quarantined for a reason if any."""
    lost = int(reason is not None)
    return UnitRecord(
        unit=unit.unit,
        sources=unit_sources(unit),
        parts=(),
        quarantine=None,
        counts=Counts(
            samples_read=1, samples_with_clips=1 - lost, samples_quarantined=lost, clips_seen=0
        ),
        reasons={reason: 1} if reason else {},
        statistics={},
    )


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[WorkUnit], Event]], Passes]:
    """Return a function that puts an outcome of units in the place of Ray."""

    @contextmanager
    def connect() -> Iterator[Cluster]:
        yield Cluster(cpus=4, gpus=0, is_own=True)

    monkeypatch.setattr("pipeline.cluster.connect", connect)
    monkeypatch.setattr("pipeline.job.metrics.ray_metrics.RayRecorder", Recorder)
    monkeypatch.setattr(driver, "require_shared", lambda *_: None)
    # Not `time.sleep` itself: other threads of this process would never wait again.
    at_once = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _: None)
    monkeypatch.setattr(driver, "time", at_once)

    def put(outcome: Callable[[WorkUnit], Event]) -> Passes:
        made = Passes(outcome)
        monkeypatch.setattr("pipeline.job.graph.run_pass", made)
        return made

    return put


Put = Callable[[Callable[[WorkUnit], Event]], Passes]


def job(folder: Path, rows: int, **changes: Any) -> JobConfig:
    """Return a job over a list, of which each row is a unit."""
    listed = [{"video": str(folder / f"{n}.mp4")} for n in range(rows)]
    (folder / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    return JobConfig.model_validate(
        {
            "source": {"uri": [str(folder / "l.jsonl")], "lists": {"rows_per_unit": 1}},
            "output": {"uri": str(folder / "out")},
            "clip": {"frames": 5, "height": 32, "width": 40, "fps": 8.0},
            "tokenizers": [{"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"}],
            **changes,
        }
    )


def test_units_beyond_a_pass_have_the_next_one(
    passes: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "TASKS_PER_PASS", 2)
    made, progress = passes(lambda unit: UnitDone(record(unit))), Progress()
    summary = run(job(tmp_path, 3), progress)
    assert (summary.exit_code, summary.done.units, summary.retried) == (0, 3, 0)
    assert [len(units) for units in made.units] == [2, 1]
    assert made.careful == [False, False]
    said = [line for line in progress.said if line.startswith("next pass")]
    assert said == ["next pass  1 unit remains, 0 retried"]


def test_a_failed_unit_comes_after_new_ones_and_then_sample_by_sample(
    passes: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "TASKS_PER_PASS", 2)
    bad: list[str] = []

    def outcome(unit: WorkUnit) -> Event:
        bad[:] = bad or [unit.unit]
        return UnitFailed(unit.unit, "decode: x") if [unit.unit] == bad else UnitDone(record(unit))

    made = passes(outcome)
    summary = run(job(tmp_path, 4), Progress())
    assert summary.exit_code == 1
    assert (summary.failed, summary.done.units, summary.retried) == ({bad[0]: "decode: x"}, 3, 2)
    assert [len(units) for units in made.units] == [2, 2, 1, 1]
    assert [bad[0] in units for units in made.units] == [True, False, True, True]
    assert made.careful == [False, False, True, True]
    assert made.one_by_one == [0, 0, 0, 1]


@pytest.mark.parametrize(("attempts", "together"), [(2, [2, 1]), (1, [1])])
def test_units_share_tasks_unless_one_failed_or_none_gets_another_attempt(
    passes: Put, tmp_path: Path, attempts: int, together: list[int]
) -> None:
    """The one that fails could take those along that share its task."""
    made = passes(lambda unit: UnitFailed(unit.unit, "decode: x"))
    commit = {"unit_attempts": attempts}
    run(job(tmp_path, 32, decode={"actors": 1}, commit=commit), Progress())
    assert made.most_together == together


def test_a_job_whose_source_is_away_commits_nothing(passes: Put, tmp_path: Path) -> None:
    passes(lambda unit: UnitDone(record(unit, LOST)))
    with pytest.raises(OverBudget, match=r"of the first 3 units .* as file_unreadable, .* null"):
        run(job(tmp_path, 6), Progress())
    assert not list(Store(str(tmp_path / "out")).files("log"))


def test_a_job_whose_tokenizer_fails_on_every_clip_commits_nothing(
    passes: Put, tmp_path: Path
) -> None:
    counts = Counts(samples_read=2, samples_with_clips=2, clips_seen=4, clips_quarantined=4)
    passes(
        lambda unit: UnitDone(replace(record(unit), counts=counts, reasons={"tokenizer_error": 4}))
    )
    says = r"all clips of the first 3 units .* as tokenizer_error, .*; check tokenizers; or set"
    with pytest.raises(OverBudget, match=says):
        run(job(tmp_path, 6), Progress())
    assert not list(Store(str(tmp_path / "out")).files("log"))


def test_units_that_are_lost_alike_count_once_another_is_sound(passes: Put, tmp_path: Path) -> None:
    sound: list[str] = []

    def outcome(unit: WorkUnit) -> Event:
        sound.append(unit.unit)
        return UnitDone(record(unit, None if len(sound) == 2 else LOST))

    passes(outcome)
    summary = run(job(tmp_path, 6), Progress())
    assert (summary.done.units, summary.total.units) == (6, 6)
    assert summary.total.counts.samples_quarantined == 5


def test_a_job_stops_if_its_error_budget_is_spent(
    passes: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.job.summary.BUDGET_AFTER", 5)
    passes(lambda unit: UnitDone(record(unit, LOST)))
    limits = {"max_alike_units": None, "max_quarantine_rate": 0.5, "commit": {"log_every_s": 0.001}}
    with pytest.raises(OverBudget, match=r"samples are quarantined, more than .* = 0\.5; most c"):
        run(job(tmp_path, 9, **limits), Progress())
    kept = status(Store(str(tmp_path / "out"))).to_dict()
    assert kept["units"] >= 5, "it keeps what it has"
    assert kept["samples_quarantined"] == kept["units"]


def test_ray_starts_beside_the_models_and_only_for_a_sound_job(
    passes: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes(lambda unit: UnitDone(record(unit)))
    starts: list[str] = []

    @contextmanager
    def connect() -> Iterator[Cluster]:
        starts.append("opened" if (tmp_path / "out" / "dataset.json").exists() else "beside")
        yield Cluster(cpus=4, gpus=0, is_own=True)
        starts.append("closed")

    monkeypatch.setattr("pipeline.cluster.connect", connect)
    empty = {"uri": [str(tmp_path / "no/*.mp4")]}
    with pytest.raises(ConfigError, match="matches no file"):
        run(job(tmp_path, 2, source=empty), Progress())
    assert starts == []
    run(job(tmp_path, 2), Progress())
    assert starts == ["beside", "closed"]
    run(job(tmp_path, 2), Progress())  # nothing remains
    assert starts == ["beside", "closed"]
    run(job(tmp_path, 3), Progress())
    assert starts == ["beside", "closed", "opened", "closed"]


def test_a_model_that_cannot_be_opened_ends_the_ray_beside_it(
    passes: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = passes(lambda unit: UnitDone(record(unit)))
    ended: list[bool] = []

    @contextmanager
    def connect() -> Iterator[Cluster]:
        try:
            yield Cluster(cpus=4, gpus=0, is_own=True)
        finally:
            ended.append(True)

    def fails(_: JobConfig) -> None:
        raise ConfigError("the weights are of another model")

    monkeypatch.setattr("pipeline.cluster.connect", connect)
    monkeypatch.setattr("pipeline.job.setup.open_tokenizers", fails)
    with pytest.raises(ConfigError, match="of another model"):
        run(job(tmp_path, 1), Progress())
    assert (ended, made.units) == ([True], [])
    assert not (tmp_path / "out" / "dataset.json").exists()


@pytest.mark.parametrize("asked", [{"precision": "bf16"}, {"compile": True}])
def test_what_the_cluster_cannot_compute_leaves_the_output_free(
    passes: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    """Both settings are part of the fingerprint: the same output must take the job without."""

    def require(config: JobConfig, device: str) -> None:
        require_fast_precision(config, device, lambda precision: ["a node"])

    monkeypatch.setattr("pipeline.job.precision.require_fast_precision", require)
    made = passes(lambda unit: UnitDone(record(unit)))
    model = {"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"}
    with pytest.raises(ConfigError, match=f"{next(iter(asked))} = "):
        run(job(tmp_path, 1, tokenizers=[{**model, **asked}]), Progress())
    assert made.units == []
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert run(job(tmp_path, 1, tokenizers=[model]), Progress()).done.units == 1
