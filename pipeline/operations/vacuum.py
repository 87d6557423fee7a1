"""Deletes orphaned files: those that no record names and that no record can name later.

Before a file is deleted, a record drops it (`pipeline.dataset.log.commit_log`). Every writer reads
that record before its own, and a driver or compaction that was about to name the file leaves it
out. So no record names a file that is gone, however long any process stood still. The age of a file
only keeps what a running job or a reader still needs.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.log_records import record_path
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.part_reader import open_parquet
from pipeline.formatting import counted, format_bytes, labelled
from pipeline.operations.outcome import Outcome
from pipeline.operations.publish.publish import published_files
from pipeline.operations.unreferenced import Unnamed, unnamed_files
from pipeline.storage.store import Store, StoredFile

DAY_HOURS: Final = 24.0


@dataclass(slots=True, kw_only=True)
class Vacuumed(Outcome):
    """Orphaned files of a dataset, by what happens to them."""

    output: str
    older_than_hours: float
    deleted: bool
    """Whether the garbage was deleted; otherwise it was only listed."""
    garbage: list[StoredFile] = field(default_factory=list)
    young: list[StoredFile] = field(default_factory=list)
    """Files that are younger than the limit, whose unit's record is, or that have a name by now."""
    published: list[StoredFile] = field(default_factory=list)
    """Files that a Delta or Iceberg table names, or is about to name."""
    foreign: list[StoredFile] = field(default_factory=list)
    """Files that this program did not write; they are never deleted."""

    def lines(self) -> list[str]:
        """Return the lines to print."""
        act = "deleted" if self.deleted else "garbage"
        lines = [labelled(act, file.path) for file in self.garbage]
        lines += [labelled("foreign", file.path) for file in self.foreign]
        lines.append(labelled(act, f"{_sum(self.garbage)}, older than {self.older_than_hours:g} h"))
        for name, why in _KEPT.items():
            if files := getattr(self, name):
                lines.append(labelled("kept", f"{_sum(files)}: {why}"))
        if self.garbage and not self.deleted:
            lines.append(labelled("next", "the same command with --delete"))
        return lines


_KEPT: Final = {
    "young": "younger",
    "published": "in a published table; they become garbage when it is published again",
    "foreign": "not written by this program",
}


def vacuum(
    store: Store,
    *,
    older_than_hours: float = DAY_HOURS,
    delete: bool = False,
    alone: bool = False,
) -> Vacuumed:
    """List orphaned files, and delete them on request; safe while any other process runs.

    Args:
        store: the dataset's root; to delete, put-if-absent is needed.
        older_than_hours: minimum age of a file, and of the newest record of its unit, before it is
            garbage. Until then a job may be about to commit it, and a reader may still use what
            that record replaced.
        delete: whether to delete the garbage.
        alone: whether no other process writes to this output, so that a store without
            put-if-absent suffices.

    Raises:
        ConfigError: there is no dataset, or the library of a table that was published here is not
            installed.
        StoreError: the log or a table is damaged, or the store refuses.
    """
    dataset = read_dataset(store)
    # The order matters: the manifest holds all that the log object has not read, and names every
    # file that was listed and is committed by then. A table that is opened afterwards is at the
    # version that an announcement in this manifest follows, or at a newer one.
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="vacuum")
    files = list(store.files())
    manifest = read_manifest(store)
    published = published_files(store, dataset, files, manifest)
    modified = {file.path: file.modified for file in files}
    units, numbers = (manifest.table[name].to_pylist() for name in ("unit", "log_number"))
    committed = {
        unit: modified.get(record_path(number), float("inf"))
        for unit, number in zip(units, numbers, strict=True)
    }
    limit = time.time() - older_than_hours * 3600
    result = Vacuumed(output=store.uri, older_than_hours=older_than_hours, deleted=delete)
    garbage: list[Unnamed] = []
    for found in unnamed_files(files, manifest):
        if found.kind == "foreign":
            result.foreign.append(found.file)
        elif found.file.path in published:
            result.published.append(found.file)
        elif found.file.modified > limit or _last_changed(store, found, committed) > limit:
            result.young.append(found.file)
        else:
            garbage.append(found)
    parts = [found.file.path for found in garbage if found.kind in ("part", "merged")]
    if delete and parts:
        if not alone:
            store.require_put_if_absent()
        kept = set(parts) - log.drop(parts)
        result.young += [found.file for found in garbage if found.file.path in kept]
        garbage = [found for found in garbage if found.file.path not in kept]
    for found in garbage:
        if delete:
            store.delete(found.file.path)
        result.garbage.append(found.file)
    return result


def _last_changed(store: Store, found: Unnamed, committed: Mapping[str, float]) -> float:
    """Return when a record last changed a unit that has rows in a file.

    Raises:
        StoreError: the file is damaged.
    """
    if found.kind != "merged":
        return committed.get(found.unit, 0.0)
    with open_parquet(store, found.file.path) as parquet:
        units = parquet.read(columns=["unit"])["unit"].unique().to_pylist()
    return max(committed.get(unit, 0.0) for unit in units)


def _sum(files: list[StoredFile]) -> str:
    return f"{counted(len(files), 'file')}, {format_bytes(sum(file.bytes for file in files))}"
