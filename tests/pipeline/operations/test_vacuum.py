"""What no record names goes, when it is old and asked for; all else stays."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pipeline.operations.vacuum
from pipeline.__main__ import app
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.log_records import read_record, record_path
from pipeline.dataset.log.manifest import read_manifest
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.retry import retry
from pipeline.operations.vacuum import Vacuumed, vacuum
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store, StoredFile
from tests.pipeline.made_datasets import DATASET, commit, sound, write_log
from tests.pipeline.units import deliver

HOUR = 3600.0
LEFT = "data/5x16x16/u-0-0-0123456789abcdef0123456789abcdef.parquet"
QUARANTINE = "quarantine/u-1-0123456789abcdef0123456789abcdef.parquet"


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


def age(store: Store, hours: float, *paths: str) -> None:
    """Make files older; of all if none is named."""
    for file in list(store.files()):
        if not paths or file.path in paths:
            when = time.time() - hours * HOUR
            os.utime(store.locate(file.path), (when, when))


def paths(files: list[StoredFile]) -> list[str]:
    return sorted(file.path for file in files)


def everything(store: Store) -> dict[str, bytes]:
    return {file.path: store.read(file.path) for file in store.files()}


def test_nothing_is_left_over(store: Store) -> None:
    sound(store)
    result = vacuum(store, older_than_hours=0, delete=True)
    assert (result.garbage, result.young, result.foreign) == ([], [], [])
    assert verify(store).findings == []


def test_lists_first_and_deletes_only_when_asked(store: Store) -> None:
    sound(store)
    before = everything(store)
    store.write(LEFT, b"left")
    store.write(QUARANTINE, b"left, too")
    result = vacuum(store, older_than_hours=0)
    assert paths(result.garbage) == [LEFT, QUARANTINE]
    assert store.exists(LEFT)
    assert result.lines()[-1].endswith("--delete")
    result = vacuum(store, older_than_hours=0, delete=True)
    assert paths(result.garbage) == [LEFT, QUARANTINE]
    assert everything(store).items() - before.items() == {
        (record_path(4), store.read(record_path(4)))
    }
    assert read_record(store, 4).dropped == (LEFT, QUARANTINE)
    assert vacuum(store, older_than_hours=0, delete=True).garbage == []


def test_young_files_stay(store: Store) -> None:
    sound(store)
    store.write(LEFT, b"left")
    result = vacuum(store, delete=True)
    assert (result.garbage, paths(result.young)) == ([], [LEFT])
    assert store.read(LEFT) == b"left"


def test_a_day_is_counted_from_the_record_as_well(local: Store) -> None:
    """Until then a reader may hold a manifest that names what the record replaced."""
    sound(local)
    local.write(LEFT, b"left")
    age(local, 30, LEFT)
    assert paths(vacuum(local, delete=True).young) == [LEFT]
    age(local, 25, record_path(1))
    assert paths(vacuum(local, delete=True).garbage) == [LEFT]
    assert not local.exists(LEFT)


def test_a_driver_that_stood_still_does_its_dropped_units_again(local: Store) -> None:
    """It wrote parts, slept for two days, and continues after its files were deleted."""
    log = write_log(local, [])
    records = [commit(local, deliver(f"u-{n}")) for n in range(2)]
    log.append(records[:1])
    age(local, 48)
    waiting = sorted(part.path for part in records[1].files)
    assert paths(vacuum(local, delete=True).garbage) == waiting
    outcome = log.append(records[1:])
    assert (outcome.ours, outcome.dropped) == ((), ("u-1",))
    assert verify(local).findings == []
    assert verify(local).orphaned == []
    log.plan()
    assert log.append([commit(local, deliver("u-1"))]).ours == ("u-1",)
    assert verify(local).findings == []


def test_a_unit_that_was_committed_after_the_listing_stays(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = write_log(local, [])
    record = commit(local, deliver("u-0"))
    age(local, 48)
    read = pipeline.operations.vacuum.read_manifest  # type: ignore[attr-defined]

    def read_then_commit(store: Store) -> Any:
        manifest = read(store)
        log.append([record])
        return manifest

    monkeypatch.setattr(pipeline.operations.vacuum, "read_manifest", read_then_commit)
    result = vacuum(local, delete=True)
    assert (result.garbage, paths(result.young)) == ([], sorted(p.path for p in record.files))
    monkeypatch.undo()
    assert verify(local).findings == []


def test_a_suspended_driver_never_undoes_a_retry(local: Store) -> None:
    """Another driver commits its unit, vacuum takes its part, retry reopens it, it continues."""
    asleep = write_log(local, [])
    record = commit(local, deliver("u-1"))
    other = commit(local, deliver("u-1", lost=[0]))
    CommitLog(local, fingerprint=DATASET.fingerprint).append([other])
    age(local, 25)
    assert paths(vacuum(local, delete=True).garbage) == sorted(part.path for part in record.files)
    assert retry(local, ["corrupt"]).reopened == ["u-1"]
    assert asleep.append([record]).lost == ("u-1",)
    manifest = read_manifest(local)
    assert (manifest.unit("u-1"), manifest.reopened) == (other, {"u-1"})
    assert verify(local).findings == []


def test_a_store_without_conditional_writes(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sound(local)
    local.write(LEFT, b"left")
    monkeypatch.setattr(Store, "put_if_absent", Store.write)
    with pytest.raises(ConfigError, match="If-None-Match"):
        vacuum(local, older_than_hours=0, delete=True)
    assert local.exists(LEFT)
    assert paths(vacuum(local, older_than_hours=0, delete=True, alone=True).garbage) == [LEFT]


def test_temporary_files(local: Store) -> None:
    sound(local)
    names = ["data/5x16x16/.tmp-1", "log/.tmp-2", ".probe-3"]
    for name in names:
        Path(local.locate(name)).write_bytes(b"half")
    assert paths(vacuum(local, delete=True).young) == sorted(names)
    age(local, 25, names[0], names[2])
    result = vacuum(local, delete=True)
    assert paths(result.garbage) == sorted([names[0], names[2]])
    assert [file.path for file in local.files() if file.path in names] == [names[1]]


def test_strangers_are_told_and_never_deleted(local: Store) -> None:
    sound(local)
    strangers = ["data/mine.parquet", "data/5x16x16/u-0.txt", "quarantine/notes.md"]
    for name in [*strangers, "notes.md", "reports/x/mine.json"]:
        local.write(name, b"mine")
    age(local, 48)
    before = everything(local)
    result = vacuum(local, delete=True)
    assert paths(result.foreign) == sorted(strangers)
    assert result.garbage == []
    assert everything(local) == before


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "data/5x16x16").mkdir(parents=True)
    (tmp_path / LEFT).write_bytes(b"precious")
    age(store := Store(str(tmp_path)), 48)
    with pytest.raises(ConfigError, match="no dataset"):
        vacuum(store, delete=True)
    assert (tmp_path / LEFT).exists()


def test_a_damaged_log_deletes_nothing(local: Store) -> None:
    sound(local)
    age(local, 48)
    local.write(record_path(3), b"{")
    before = everything(local)
    with pytest.raises(StoreError, match="not a log record"):
        vacuum(local, delete=True)
    assert everything(local) == before


def test_command(local: Store) -> None:
    sound(local)
    local.write(LEFT, b"left")
    done = CliRunner().invoke(app, ["vacuum", local.uri, "--json", "--older-than-hours", "0"])
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert [(file["path"], file["bytes"]) for file in found["garbage"]] == [(LEFT, 4)]
    assert found["deleted"] is False
    done = CliRunner().invoke(app, ["vacuum", local.uri, "--older-than-hours", "0", "--delete"])
    assert done.stdout.splitlines() == [
        f"deleted    {LEFT}",
        "deleted    1 file, 4 B, older than 0 h",
    ]
    assert not local.exists(LEFT)


def test_no_outcome_is_empty() -> None:
    assert Vacuumed(output="o", older_than_hours=24, deleted=False).lines() == [
        "garbage    0 files, 0 B, older than 24 h"
    ]
