"""Deletes what no record names, and only what no record can come to name.

A part's name follows from its content, so a job that does a unit again writes the very file that an
earlier crash left. Deleting it between that and the record would lose rows. So parts are deleted
only of units that are committed, since no driver commits those a second time; what is left of other
units goes away when they are committed, or with `uncommitted`, which is for times without a job.

A merged part that no record names may be that of a compaction which is about to name it. So before
one is deleted, a record says that it is dropped: whoever would name it has to read that first.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.dataset.commit_log import CommitLog
from pipeline.dataset.log_records import record_path
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.part_reader import open_parquet
from pipeline.dataset.unreferenced import Unnamed, unnamed_files
from pipeline.formatting import format_bytes
from pipeline.operations.publish.publish import published_files
from pipeline.storage.store import Store, StoredFile

DAY_HOURS: Final = 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Vacuumed:
    """What a dataset holds beside what counts, by what becomes of it."""

    output: str
    older_than_hours: float
    delete: bool
    """Whether the garbage was deleted, or only listed."""
    garbage: list[StoredFile] = field(default_factory=list)
    young: list[StoredFile] = field(default_factory=list)
    """Younger than the limit, or of a unit whose record is, or named by now."""
    uncommitted: list[StoredFile] = field(default_factory=list)
    """Of units that are not committed, or are to be done again."""
    published: list[StoredFile] = field(default_factory=list)
    """Named by the newest version of a Delta or Iceberg table, which would miss them."""
    foreign: list[StoredFile] = field(default_factory=list)
    """Not written by this program; never deleted."""

    exit_code = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        groups = {name: getattr(self, name) for name in _GROUPS}
        return {
            "output": self.output,
            "older_than_hours": self.older_than_hours,
            "deleted": self.delete,
            **{
                name: [{"path": file.path, "bytes": file.bytes} for file in files]
                for name, files in groups.items()
            },
        }

    def lines(self) -> list[str]:
        """Return the same for a person."""
        act = "deleted" if self.delete else "garbage"
        lines = [f"{act:<12}{file.path}" for file in self.garbage]
        lines += [f"{'foreign':<12}{file.path}" for file in self.foreign]
        lines.append(f"{act:<12}{_sum(self.garbage)}, older than {self.older_than_hours:g} h")
        for name, why in _KEPT.items():
            if files := getattr(self, name):
                lines.append(f"{'kept':<12}{_sum(files)}: {why}")
        if self.garbage and not self.delete:
            lines.append(f"{'next':<12}the same command with --delete")
        return lines


_KEPT: Final = {
    "young": "younger",
    "uncommitted": "of units that are not committed; running the job again settles them",
    "published": "in a published table; publish it again, and they are garbage",
    "foreign": "not written by this program",
}


_GROUPS: Final = ("garbage", *_KEPT)


def vacuum(
    store: Store,
    *,
    older_than_hours: float = DAY_HOURS,
    delete: bool = False,
    uncommitted: bool = False,
) -> Vacuumed:
    """List what no record names, and delete it if asked to; safe while jobs and compactions run.

    Args:
        store: the dataset's root.
        older_than_hours: younger files are left alone, and so are the files of a unit whose record
            is younger: somebody may still read what it replaced.
        delete: delete the garbage.
        uncommitted: count files of units that are not committed as garbage, too. Not safe while a
            job runs: see above.

    Raises:
        ConfigError: there is no dataset, or the library of a table that was published here is not
            installed.
        StoreError: the log or a table is damaged, or the store refuses.
    """
    dataset = read_dataset(store)
    # In this order: what the log object has not seen is in the manifest, and whatever is listed and
    # committed by then is named.
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="vacuum") if delete else None
    files = list(store.files())
    manifest = read_manifest(store)
    published = published_files(store, dataset, files)
    modified = {file.path: file.modified for file in files}
    committed = {
        unit: modified.get(record_path(number), float("inf"))
        for unit, number in zip(
            manifest.table["unit"].to_pylist(),
            manifest.table["log_number"].to_pylist(),
            strict=True,
        )
    }
    limit = time.time() - older_than_hours * 3600
    result = Vacuumed(output=store.uri, older_than_hours=older_than_hours, delete=delete)
    unnamed = list(unnamed_files(files, manifest))
    merged = [
        found.file.path
        for found in unnamed
        if found.kind == "merged"
        and found.file.path not in published
        and found.file.modified <= limit
        and _last_changed(store, found.file.path, committed) <= limit
    ]
    if log is not None and merged:
        store.require_put_if_absent()
        merged = list(log.drop(merged))
    for found in unnamed:
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
    """Return when a record last changed a unit of a merged part: one of them took its rows away.

    Raises:
        StoreError: the file is damaged.
    """
    units: set[str] = set()
    with open_parquet(store, path) as parquet:
        for n in range(parquet.num_row_groups):
            units.update(parquet.read_row_group(n, columns=["unit"])["unit"].unique().to_pylist())
    return max(committed.get(unit, 0.0) for unit in units)


def _deleted(store: Store, found: Unnamed) -> bool:
    """Delete a file unless it was written anew since it was listed; return whether it is gone."""
    if any(again != found.file for again in store.files(found.file.path)):
        return False
    store.delete(found.file.path)
    return True


def _sum(files: list[StoredFile]) -> str:
    return f"{len(files)} files, {format_bytes(sum(file.bytes for file in files))}"
