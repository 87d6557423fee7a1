"""Deletes orphaned files: those that no record names and that no record can name later.

The name of a part follows from its content. A job that processes a unit again therefore writes the
same file that an earlier crash left, and deleting it before its record is put would lose rows. So
only parts of committed units are deleted: no driver commits those a second time. Files of other
units are removed after their commit, or with `uncommitted`, which requires that no job runs.

A merged part that no record names may belong to a compaction that is about to name it. Before such
a part is deleted, a record declares it dropped. Every writer reads that record before its own.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pipeline.dataset.commit_log import CommitLog
from pipeline.dataset.log_records import record_path
from pipeline.dataset.manifest import read_manifest
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
    uncommitted: list[StoredFile] = field(default_factory=list)
    """Files of units that are not committed or are reopened."""
    published: list[StoredFile] = field(default_factory=list)
    """Files that the newest version of a Delta or Iceberg table names."""
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
    "uncommitted": "of units that are not committed; the next run of the job replaces them",
    "published": "in a published table; they become garbage when it is published again",
    "foreign": "not written by this program",
}


def vacuum(
    store: Store,
    *,
    older_than_hours: float = DAY_HOURS,
    delete: bool = False,
    uncommitted: bool = False,
) -> Vacuumed:
    """List orphaned files, and delete them on request; safe while jobs and compactions run.

    Args:
        store: the dataset's root.
        older_than_hours: minimum age of a file, and of the newest record of its unit, before it is
            garbage. Until then a reader may still use what that record replaced.
        delete: whether to delete the garbage.
        uncommitted: whether files of units that are not committed are also garbage. Not safe while
            a job runs.

    Raises:
        ConfigError: there is no dataset, or the library of a table that was published here is not
            installed.
        StoreError: the log or a table is damaged, or the store refuses.
    """
    dataset = read_dataset(store)
    # The order matters: the manifest holds all that the log object has not read, and names every
    # file that was listed and is committed by then.
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="vacuum") if delete else None
    files = list(store.files())
    manifest = read_manifest(store)
    published = published_files(store, dataset, files)
    modified = {file.path: file.modified for file in files}
    units, numbers = (manifest.table[name].to_pylist() for name in ("unit", "log_number"))
    committed = {
        unit: modified.get(record_path(number), float("inf"))
        for unit, number in zip(units, numbers, strict=True)
    }
    limit = time.time() - older_than_hours * 3600
    result = Vacuumed(output=store.uri, older_than_hours=older_than_hours, deleted=delete)
    orphaned = list(unnamed_files(files, manifest))
    merged = [
        found.file.path
        for found in orphaned
        if found.kind == "merged"
        and found.file.path not in published
        and found.file.modified <= limit
        and _last_changed(store, found.file.path, committed) <= limit
    ]
    if log is not None and merged:
        store.require_put_if_absent()
        merged = list(log.drop(merged))
    for found in orphaned:
        is_open = found.kind == "part" and (
            found.unit not in committed or found.unit in manifest.reopened
        )
        since = max(found.file.modified, committed.get(found.unit, 0.0))
        if found.kind == "foreign":
            result.foreign.append(found.file)
        elif found.file.path in published:
            result.published.append(found.file)
        elif since > limit or (found.kind == "merged" and found.file.path not in merged):
            result.young.append(found.file)
        elif is_open and not uncommitted:
            result.uncommitted.append(found.file)
        elif not delete or _deleted(store, found):
            result.garbage.append(found.file)
        else:
            result.young.append(found.file)
    return result


def _last_changed(store: Store, path: str, committed: Mapping[str, float]) -> float:
    """Return when a record last changed a unit that has rows in a merged part.

    Raises:
        StoreError: the file is damaged.
    """
    with open_parquet(store, path) as parquet:
        units = parquet.read(columns=["unit"])["unit"].unique().to_pylist()
    return max(committed.get(unit, 0.0) for unit in units)


def _deleted(store: Store, found: Unnamed) -> bool:
    """Delete a file unless it was written again since it was listed; return whether it is gone."""
    if any(listed != found.file for listed in store.files(found.file.path)):
        return False
    store.delete(found.file.path)
    return True


def _sum(files: list[StoredFile]) -> str:
    return f"{counted(len(files), 'file')}, {format_bytes(sum(file.bytes for file in files))}"
