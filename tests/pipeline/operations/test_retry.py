"""Retries of quarantined samples: every reader sees one version of each unit."""

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.tally import Tally
from pipeline.errors import ConfigError, StateUnknown, StoreError
from pipeline.job.log_buffer import LogBuffer
from pipeline.operations.retry import retry
from pipeline.operations.status import status
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import DATASET, commit, write_log
from tests.pipeline.units import deliver


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


def some(store: Store) -> None:
    """u-0 lost a sample and the clip k1/0, u-1 a sample, u-2 nothing."""
    units = [
        deliver("u-0", lost=[2]),
        deliver("u-1"),
        deliver("u-2", unreadable=0),
    ]
    write_log(store, [commit(store, unit) for unit in units])


def test_units_of_a_reason(store: Store) -> None:
    some(store)
    result = retry(store, ["corrupt"])
    assert (result.reopened, result.already_open) == (["u-0", "u-1"], [])
    assert (result.quarantined, result.clips) == ({"corrupt": 2}, 7 + 8)
    assert read_manifest(store).reopened == {"u-0", "u-1"}
    assert status(store).to_dict()["units_reopened"] == ["u-0", "u-1"]
    assert verify(store).findings == []


def test_filtered_samples_can_be_named_too(local: Store) -> None:
    """After the settings have changed, or the source is repaired."""
    some(local)
    result = retry(local, ["too_short"], key="short*")
    assert (result.reopened, result.quarantined) == (["u-0", "u-1", "u-2"], {"too_short": 3})
    assert verify(local).findings == []


def test_patterns_of_keys(local: Store) -> None:
    some(local)
    assert retry(local, ["corrupt", "non_finite"], key="k*").reopened == ["u-0"]
    assert retry(local, ["corrupt"], key="k*").reopened == []
    result = retry(local, ["corrupt"], key="bad?")
    assert (result.reopened, result.already_open) == (["u-1"], ["u-0"])
    assert result.lines()[1] == "open       u-0: reopened earlier"


def test_nothing_of_that_kind(local: Store) -> None:
    some(local)
    before = local.list()
    result = retry(local, ["decode_timeout"])
    assert (result.reopened, result.exit_code) == ([], 0)
    assert result.lines() == [f"nothing in the quarantine of {local.uri} matches"]
    assert local.list() == before
    with pytest.raises(ConfigError, match="--reason corupt: no such reason; use one of tar_trunc"):
        retry(local, ["corupt"])
    with pytest.raises(ConfigError, match="no dataset"):
        retry(Store(local.uri + "-none"), ["corrupt"])
    [path] = [part.path for part in read_manifest(local).quarantine_parts() if "u-1" in part.path]
    local.delete(path)
    with pytest.raises(StoreError, match=r"quarantine/u-1-.*pipeline verify"):
        retry(local, ["corrupt"])


def test_from_reopened_to_replaced(local: Store) -> None:
    """The unit counts as it is until a run has done it; its old files go after a day."""
    some(local)
    before = read_manifest(local)
    retry(local, ["non_finite"])
    assert list(read_manifest(local).units()) == list(before.units())
    old = next(unit for unit in before.units() if unit.unit == "u-0")

    log = CommitLog(local, fingerprint=DATASET.fingerprint)
    assert log.append([commit(local, deliver("u-0"))]).ours == ("u-0",)
    manifest = read_manifest(local)
    assert (manifest.counts().clips_written, before.counts().clips_written) == (24, 23)
    assert (Tally.of(manifest).reasons, Tally.of(before).reasons) == (
        {"corrupt": 2},
        {"corrupt": 2, "non_finite": 1},
    )
    assert verify(local).findings == []

    kept = {part.path for part in (*manifest.parts(), *manifest.quarantine_parts())}
    gone = sorted(part.path for part in old.files if part.path not in kept)
    assert len(gone) == 3, "both buckets, and the quarantine"
    assert vacuum(local, delete=True).garbage == []
    day = time.time() - 25 * 3600
    for file in list(local.files()):
        os.utime(local.locate(file.path), (day, day))
    assert sorted(file.path for file in vacuum(local, delete=True).garbage) == gone
    assert verify(local).findings == []


def test_an_append_whose_answer_was_lost_does_not_undo_it(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = LogBuffer(write_log(local, []), every_s=0.0)
    buffer.add(commit(local, deliver("u-1")))
    put = Store.put_or_read

    def lost(store: Store, path: str, data: bytes) -> bytes:
        put(store, path, data)
        raise StateUnknown("no answer")

    monkeypatch.setattr(Store, "put_or_read", lost)
    buffer.flush_if_due()
    monkeypatch.undo()
    assert retry(local, ["corrupt"]).reopened == ["u-1"]
    buffer.add(commit(local, deliver("u-2")))
    buffer.flush()
    manifest = read_manifest(local)
    assert (manifest.number, manifest.reopened) == (3, {"u-1"})
    assert buffer.ours.units == 2
    buffer.log.plan()
    buffer.add(commit(local, deliver("u-1")))
    buffer.flush()
    assert read_manifest(local).reopened == frozenset()


def test_work_that_began_before_is_no_answer(local: Store) -> None:
    """The driver reads the retry while it works on the unit, and then delivers the old result."""
    log, other = write_log(local, []), write_log(local, [])
    other.append([commit(local, deliver("u-1"))])
    assert retry(local, ["corrupt"]).reopened == ["u-1"]
    log.append([commit(local, deliver("u-2"))])
    assert log.append([commit(local, deliver("u-1"))]).lost == ("u-1",)
    assert read_manifest(local).reopened == {"u-1"}


def test_command(local: Store) -> None:
    some(local)
    run = CliRunner().invoke
    done = run(app, ["retry", local.uri, "--reason", "non_finite", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "output": local.uri,
        "reopened": ["u-0"],
        "already_open": [],
        "quarantined": {"non_finite": 1},
        "clips": 7,
    }
    done = run(app, ["retry", local.uri, "--reason", "corrupt", "--reason", "non_finite"])
    assert done.stdout.splitlines()[:2] == ["reopened   u-1", "open       u-0: reopened earlier"]
    assert run(app, ["retry", local.uri, "--reason", "nope"]).exit_code == 2
    assert run(app, ["retry", local.uri]).exit_code == 2
