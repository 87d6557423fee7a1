"""What readers find in a dataset whose parts are merged, and what its writers do."""

import os
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.dataset.records import Reopened, UnitRecord
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import DATASET, commit
from tests.pipeline.units import deliver


def open_log(store: Store) -> CommitLog:
    return CommitLog(store, fingerprint=DATASET.fingerprint, run="a test")


def content(store: Store) -> dict[str, list[pa.Table]]:
    """Return the rows of every unit by bucket, as a reader of the log finds them, in its order."""
    found: dict[str, list[pa.Table]] = {}
    for unit in read_manifest(store).units():
        buckets: dict[str, list[pa.Table]] = {}
        for part in unit.parts:
            with open_parquet(store, part.path) as parquet:
                buckets.setdefault(part.bucket, []).extend(unit_rows(parquet, part))
        found[unit.unit] = [pa.concat_tables(tables) for tables in buckets.values()]
    return found


def globbed(store: Store) -> list[str]:
    """Return the ids that one who reads all files finds, sorted."""
    return sorted(
        clip
        for path in store.list("data")
        for clip in pq.read_table(pa.BufferReader(store.read(path)))["clip_id"].to_pylist()
    )


def ids(store: Store) -> list[str]:
    tables = [table for tables in content(store).values() for table in tables]
    return sorted(clip for table in tables for clip in table["clip_id"].to_pylist())


def named(store: Store) -> set[str]:
    return {part.path for part in read_manifest(store).parts()}


def age(store: Store, hours: float) -> None:
    when = time.time() - hours * 3600
    for file in list(store.files()):
        os.utime(store.locate(file.path), (when, when))


def redo(store: Store, unit: str, **options: Any) -> UnitRecord:
    """Reopen a unit, and commit it again."""
    log = open_log(store)
    known = next(record for record in read_manifest(store).units() if record.unit == unit)
    assert log.reopen([Reopened(unit=unit, sources=known.sources)]) == (unit,)
    log.plan()
    again = commit(store, deliver(unit, **options))
    assert log.append([again]).ours == (unit,)
    return again
