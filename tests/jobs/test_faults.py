"""Whatever is killed, the rows are those of an undisturbed run; what cannot be done is reported."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from pipeline.dataset.log_records import read_record
from pipeline.errors import OverBudget
from pipeline.job import graph
from pipeline.job.driver import run
from pipeline.operations.status import status
from pipeline.storage.store import Store
from tests.jobs import saboteurs
from tests.jobs.conftest import ROOT, Silence, committed_rows, job, of_units, tokenized

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


def test_killed_actors(undisturbed: Undisturbed, tmp_path: Path) -> None:
    tars, rows = undisturbed
    summary = tokenized(
        job(tars, tmp_path / "out"),
        lambda: kill("DecodeWorker"),
        lambda: kill("TokenizeWorker"),
    )
    assert summary.done.units == 4
    assert committed_rows(tmp_path / "out").equals(rows)


def test_a_killed_driver(undisturbed: Undisturbed, cluster: str, tmp_path: Path) -> None:
    tars, rows = undisturbed
    config = job(tars, tmp_path / "out")
    settings = tmp_path / "job.yaml"
    settings.write_text(json.dumps(config.public()))
    driver = subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.endless_job", settings],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": cluster},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "out/log/00000000000000000001.json"
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert driver.poll() is None, "it is in mid-run"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    first = read_record(Store(str(tmp_path / "out")), 1)

    summary = tokenized(config)
    assert 1 <= summary.committed_before < 4
    assert summary.committed_before + summary.done.units == 4
    assert read_record(Store(str(tmp_path / "out")), 1) == first
    assert committed_rows(tmp_path / "out").equals(rows)


def test_units_that_fail_in_every_pass_are_reported_and_done_by_a_later_run(
    undisturbed: Undisturbed, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kills its actor every time, the source of another goes away; the corpus then grows."""
    tars, rows = undisturbed
    gone = tmp_path / "gone.tar"
    gone.write_bytes(Path(tars[1]).read_bytes())

    class Removing(Silence):
        def begin(self, units: int) -> None:
            gone.unlink(missing_ok=True)

    monkeypatch.setattr(graph, "DecodeWorker", saboteurs.DiesOnOneUnit)
    config = job([tars[0], tars[1], str(gone)], tmp_path / "out", commit__unit_attempts=2)
    summary = run(config, Removing())
    assert summary.exit_code == 1
    (gone_unit, gone_reason), (unit, reason) = sorted(summary.failed.items())
    assert gone_unit.startswith("gone-")
    assert gone_reason == f"decode: StoreError: {gone}: gone since it was planned"
    assert unit.startswith("shard-000")
    assert "died 3 times" in reason
    # Two passes of three starts each. Ray also counts a start for which the actor was not yet back.
    assert 2 * 2 <= len(list(marks.glob("death-*"))) <= 2 * 3
    assert any(line.startswith(f"failed     {unit}: ") for line in summary.lines())
    assert any("NOT balanced" in line for line in summary.lines())
    assert (summary.done.units, summary.retried) == (1, 2)
    assert summary.total.counts.samples_quarantined == 0

    monkeypatch.undo()
    second = tokenized(job(tars, tmp_path / "out"))
    assert (second.committed_before, second.done.units, second.total.units) == (1, 3, 4)
    assert committed_rows(tmp_path / "out").equals(rows)


def test_a_replay_that_comes_out_differently_is_retried(
    undisturbed: Undisturbed, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, rows = undisturbed
    monkeypatch.setattr(graph, "DecodeWorker", saboteurs.ComesOutDifferently)
    progress = Silence()
    summary = run(job(tars[:2], tmp_path / "out"), progress)
    assert summary.exit_code == 0
    [said] = [line for line in progress.said if line.startswith("attempt")]
    assert "the unit was decoded twice, with different outcomes" in said
    mine = committed_rows(tmp_path / "out")
    assert mine.equals(of_units(rows, mine))


def test_a_broken_model_gets_a_new_process(
    undisturbed: Undisturbed, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, rows = undisturbed
    monkeypatch.setattr(graph, "TokenizeWorker", saboteurs.BreaksOnce)
    progress = Silence()
    summary = run(job(tars[2:], tmp_path / "out"), progress)
    assert summary.exit_code == 0
    said = [line for line in progress.said if line.startswith("attempt")]
    assert len(said) == summary.retried == 1, "one unit paid for it, in one pass"
    assert said[0].endswith("1 of 3 failed: tokenize: TokenizerBroken: device says no")
    assert summary.total.counts.clips_quarantined == 0
    mine = committed_rows(tmp_path / "out")
    assert mine.equals(of_units(rows, mine))


def test_a_job_over_its_error_budget_stops_and_keeps_what_it_has(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.job.summary.BUDGET_AFTER_SAMPLES", 3)
    for name in "abcdef":
        (tmp_path / f"{name}.mp4").write_text("no video")
    config = job(f"{tmp_path}/*.mp4", tmp_path / "out", source__files_per_unit=3)
    with pytest.raises(OverBudget, match=r"samples are quarantined, more than .* = 0\.5; most c"):
        run(config.model_copy(update={"max_quarantine_rate": 0.5}), Silence())
    kept = status(Store(str(tmp_path / "out"))).to_dict()
    assert kept["units"] in (1, 2)
    assert kept["samples_quarantined"] == 3 * kept["units"]


def test_a_job_whose_source_is_away_stops_and_commits_nothing(cluster: str, tmp_path: Path) -> None:
    rows = [{"video": str(tmp_path / f"{n}.mp4")} for n in range(4)]  # of a folder that is there
    (tmp_path / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = str(tmp_path / "l.jsonl")
    config = job(source, tmp_path / "out", source__lists={"rows_per_unit": 1})
    with pytest.raises(OverBudget, match=r"of the first 3 units .* as file_unreadable, .* null"):
        run(config, Silence())
    assert not list(Store(str(tmp_path / "out")).files("log"))
    summary = run(config.model_copy(update={"max_alike_units": None}), Silence())
    assert (summary.exit_code, summary.done.units) == (0, 4)
    assert summary.done.counts.samples_quarantined == 4


def test_one_sample_that_fails_its_unit_is_given_up_alone(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, rows = undisturbed
    monkeypatch.setattr(graph, "DecodeWorker", saboteurs.FailsOnOneVideo)
    progress = Silence()
    summary = run(job(tars[:1], tmp_path / "out"), progress)
    assert (summary.exit_code, summary.retried) == (0, 2)
    assert all(
        line.endswith("decode: KeyError: 'a bug'") for line in progress.said if "failed" in line
    )
    assert summary.done.reasons == {"given_up": 1}
    mine = committed_rows(tmp_path / "out")
    kept = pa.compute.not_equal(rows["key"], saboteurs.FAILING)
    assert mine.equals(of_units(rows.filter(kept), mine))
