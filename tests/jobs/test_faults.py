"""Whatever is killed, the rows are those of an undisturbed run; what cannot be done is reported."""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from pipeline.dataset.log.log_records import read_record
from pipeline.job.driver import run
from pipeline.storage.store import Store
from tests.forked_workers import forked
from tests.jobs import saboteurs
from tests.jobs.conftest import ROOT, Silence, committed_rows, job, tokenized
from tests.pipeline.in_process import without_ray

Undisturbed = tuple[list[str], pa.Table]


def kill(worker: str) -> None:
    """SIGKILL the actors of the cluster under test that run a worker."""
    victims = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # also of one that has just died
            if worker in " ".join(process.cmdline()):
                victims.append(process)
    assert victims, f"no {worker} is running"
    for process in victims:
        process.kill()


def test_a_killed_driver(
    undisturbed: Undisturbed, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another driver does what its log does not hold."""
    tars, rows = undisturbed
    config = job(tars, tmp_path / "out")
    settings = tmp_path / "job.yaml"
    settings.write_text(json.dumps(config.public()))
    driver = subprocess.Popen(
        forked("tests/jobs/endless_job.py", settings),
        env={**os.environ, "RAY_ADDRESS": cluster, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "out/log/00000000000000000001.json"
    deadline = time.monotonic() + 240
    try:
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert driver.poll() is None, "it is in mid-run"
    finally:
        driver.kill()
        driver.wait()
    first = read_record(Store(str(tmp_path / "out")), 1)

    without_ray(monkeypatch)
    summary = tokenized(config)
    assert 1 <= summary.committed_before < 4
    assert summary.committed_before + summary.done.units == 4
    assert read_record(Store(str(tmp_path / "out")), 1) == first
    assert committed_rows(tmp_path / "out").equals(rows)


def test_units_that_fail_are_reported_and_done_by_a_later_run(
    undisturbed: Undisturbed, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kills its actor every time, the source of another goes away; the corpus then grows.

    The later run does its units although its actors are killed.
    """
    tars, rows = undisturbed
    gone = tmp_path / "gone.tar"
    gone.write_bytes(Path(tars[1]).read_bytes())

    class Removing(Silence):
        def begin(self, units: int) -> None:
            gone.unlink(missing_ok=True)

    monkeypatch.setattr("pipeline.job.graph.DecodeWorker", saboteurs.DiesOnOneUnit)
    config = job([tars[0], tars[1], str(gone)], tmp_path / "out", commit__unit_attempts=1)
    summary = run(config, Removing())
    assert summary.exit_code == 1
    (gone_unit, gone_reason), (unit, reason) = sorted(summary.failed.items())
    assert gone_unit.startswith("gone-")
    assert (
        gone_reason
        == f"decode: StoreError: {gone}: missing, although it existed when the job was planned"
    )
    assert unit.startswith("shard-000")
    assert "died 3 times" in reason
    # Ray also counts a start for which the actor was not yet back.
    assert 2 <= len(list(marks.glob("death-*"))) <= 3
    assert any(line.startswith(f"failed     {unit}: ") for line in summary.lines())
    assert any("NOT balanced" in line for line in summary.lines())
    assert (summary.done.units, summary.retried) == (1, 0)
    assert summary.total.counts.samples_quarantined == 0

    monkeypatch.undo()
    second = tokenized(
        job(tars, tmp_path / "out"),
        lambda: kill("DecodeWorker"),
        lambda: kill("TokenizeWorker"),
    )
    assert (second.committed_before, second.done.units, second.total.units) == (1, 3, 4)
    assert committed_rows(tmp_path / "out").equals(rows)


def test_faults_that_pass_cost_attempts_and_a_sample_that_always_fails_is_given_up_alone(
    undisturbed: Undisturbed, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three units: a replay comes out differently, a model breaks, and one sample fails."""
    tars, rows = undisturbed
    monkeypatch.setattr("pipeline.job.graph.DecodeWorker", saboteurs.DecodesBadly)
    monkeypatch.setattr("pipeline.job.graph.TokenizeWorker", saboteurs.BreaksOnce)
    progress = Silence()
    summary = run(job(tars, tmp_path / "out", commit__unit_attempts=2), progress)
    said = sorted(line.partition("attempt    ")[2] for line in progress.said if "failed:" in line)
    assert [line.partition("-")[2][:3] for line in said] == ["000", "001", "002"]
    replayed, failed, broken = said
    assert "1 of 2 failed: " in replayed
    assert "the unit was decoded twice, with different outcomes" in replayed
    assert failed.endswith("decode: KeyError: 'a bug'")
    # One unit paid for the broken model, in one pass; then the model has a new process.
    assert broken.endswith("1 of 2 failed: tokenize: TokenizerBroken: device says no")
    assert (summary.exit_code, summary.retried) == (0, 3)
    assert summary.done.reasons == {"given_up": 1}
    assert summary.total.counts.clips_quarantined == 0
    kept = pa.compute.not_equal(rows["key"], saboteurs.FAILING)
    assert committed_rows(tmp_path / "out").equals(rows.filter(kept))
