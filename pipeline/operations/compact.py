"""Merges small parts of one bucket into larger ones, by commits of the log; rows do not change.

    manifest ─► small files, in the order of commits ─► groups ─► one merged part and one log record
                                                                  for each group

A record moves all units of a group or none. It is put only if nothing was logged about any of them
since their parts were read. So readers of the log see each row once, whatever other writers do
meanwhile and wherever this process is killed. Files with rows that no longer count, because their
unit was done again or they were forgotten, are written again whatever their size. A merged part
that no record names is an orphaned file, and so are the files that it replaces.
`pipeline.operations.vacuum` deletes both.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import pyarrow as pa

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import Manifest, read_manifest, write_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.parquet_file import UNREADABLE, parquet_reader
from pipeline.dataset.part_reader import fetched, unit_rows
from pipeline.dataset.part_writer import PartWriter, merged_name
from pipeline.dataset.records import Part, PartsMoved, RowSpan
from pipeline.errors import PipelineError, StoreError, one_line
from pipeline.formatting import counted, format_bytes, labelled
from pipeline.operations.outcome import Outcome
from pipeline.operations.shared_file import SharedFile, shared_files
from pipeline.storage.store import Store

PART_BYTES: Final = 128 << 20
"""Size in bytes at which a merged part ends."""


SMALL_SHARE: Final = 0.5
"""Fraction of that size below which a file is merged. A full merged part is above it, so its rows
are not rewritten."""


@dataclass(slots=True, kw_only=True)
class Compaction(Outcome):
    """What was merged."""

    output: str
    files_before: int = 0
    """Number of files that were merged."""
    bytes_before: int = 0
    files_after: int = 0
    bytes_after: int = 0
    rows: int = 0
    rows_left_out: int = 0
    """Number of rows in these files that no longer count: replaced or forgotten."""
    changed_meanwhile: int = 0
    """Number of merged parts that were abandoned, because a record changed one of their units."""

    def lines(self) -> list[str]:
        """Return the lines to print."""
        lines = []
        if self.files_after:
            before = f"{counted(self.files_before, 'file')}, {format_bytes(self.bytes_before)}"
            after = f"{counted(self.files_after, 'file')}, {format_bytes(self.bytes_after)}"
            lines.append(labelled("merged", f"{before} → {after} · {counted(self.rows, 'row')}"))
        elif not self.changed_meanwhile:
            lines.append(f"nothing to merge in {self.output}")
        if self.rows_left_out:
            text = f"{counted(self.rows_left_out, 'row')} that no longer counted"
            lines.append(labelled("left out", text))
        if self.changed_meanwhile:
            text = (
                f"{counted(self.changed_meanwhile, 'merged part')}, whose units changed meanwhile"
            )
            lines.append(labelled("abandoned", f"{text}; run the command again"))
        if self.files_after:
            lines.append(labelled("next", "vacuum deletes the merged files after a day"))
        return lines


def compact(
    store: Store, *, part_bytes: int = PART_BYTES, small_share: float = SMALL_SHARE
) -> Compaction:
    """Merge the small parts of each bucket; safe while jobs and other compactions run.

    Args:
        store: the dataset's root; put-if-absent is needed.
        part_bytes: size in bytes at which a merged part ends.
        small_share: fraction of `part_bytes` below which a file is merged. Files with rows that no
            longer count are written again whatever their size.

    Raises:
        ConfigError: there is no dataset.
        StoreError: log or parts are damaged, or the store refuses. What was logged by then remains.
    """
    dataset = read_dataset(store)
    store.require_put_if_absent()
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="compact")
    manifest = read_manifest(store)  # after the log object: it holds what that has not read
    result = Compaction(output=store.uri)
    groups = list(_groups(manifest, part_bytes, small_share))
    concerned = {unit for group in groups for file in group for unit in file.units}
    parts = {u.unit: u.parts for u in manifest.units() if u.unit in concerned}
    known = dict.fromkeys(concerned, manifest.number)
    schema = dataset.schema
    for group in groups:
        units = dict.fromkeys(unit for file in group for unit in file.units)
        try:
            merged = merge_files(store, schema, group)
        except StoreError:
            log.refresh()
            if all(log.changed.get(unit, 0) <= known[unit] for unit in units):
                raise
            result.changed_meanwhile += 1  # and vacuum may have deleted its files
            continue
        now = {}
        first_row = 0
        for unit, part in (share for file in group for share in file.shares):
            place = RowSpan(first_row=first_row, of_rows=merged.rows)
            now[unit, part] = replace(merged, rows=part.rows, place=place)
            first_row += part.rows
        moved = [
            PartsMoved(unit=unit, parts=tuple(now.get((unit, part), part) for part in parts[unit]))
            for unit in units
        ]
        if not log.move(moved, known):
            result.changed_meanwhile += 1
            continue
        parts.update((unit.unit, unit.parts) for unit in moved)
        known.update(dict.fromkeys(units, log.number))
        result.files_before += len(group)
        result.bytes_before += sum(file.part.bytes for file in group)
        result.files_after += 1
        result.bytes_after += merged.bytes
        result.rows += merged.rows
        result.rows_left_out += sum(file.rows_left_out for file in group)
    if result.files_after:
        write_manifest(store)
    return result


def _groups(manifest: Manifest, part_bytes: int, small_share: float) -> Iterator[list[SharedFile]]:
    """Yield the files that become one, bucket by bucket, in the order of commits."""
    buckets: dict[str, list[SharedFile]] = {}
    for file in shared_files(manifest):
        buckets.setdefault(file.part.bucket, []).append(file)
    for files in buckets.values():
        group: list[SharedFile] = []
        size = 0
        for file in files:
            file.shares.sort(key=lambda share: share[1].place.first_row if share[1].place else 0)
            held = file.rows + file.rows_left_out
            bytes_kept = file.part.bytes * file.rows // held if held else 0
            small = bytes_kept < small_share * part_bytes
            # The next run replaces the rows of a reopened unit; merged, they would soon belong to
            # no unit. Forgotten rows do not wait for that run.
            reopened = not manifest.reopened.isdisjoint(file.units)
            if not (file.rows_left_out or (small and not reopened)):
                continue
            group.append(file)
            size += bytes_kept
            if size >= part_bytes:
                yield group
                group, size = [], 0
        if len(group) > 1 or any(file.rows_left_out for file in group):
            yield group


def merge_files(store: Store, schema: pa.Schema, group: Sequence[SharedFile]) -> Part:
    """Write the rows that belong to a unit into one part, with one row group in memory at a time.

    Raises:
        StoreError: a file is missing or differs from its record, or the store refuses.
    """
    bucket = group[0].part.bucket
    unit = merged_name()
    with PartWriter(store, schema, unit=unit, bucket=bucket, max_part_bytes=sys.maxsize) as writer:
        for file in group:
            for rows in _rows(store, schema, file):
                writer.add(rows)
        [part] = writer.publish()
    return part


def _rows(store: Store, schema: pa.Schema, file: SharedFile) -> Iterator[pa.Table]:
    """Yield the rows of a file that belong to a unit, after its digest was compared."""
    where = store.locate(file.part.path)
    advice = "run `python -m pipeline verify`"
    try:
        with fetched(store, file.part.path) as (opened, digest):
            if digest != file.part.sha256:
                raise StoreError(
                    f"{where}: SHA-256 is {digest}, but the log has {file.part.sha256}; {advice}"
                )
            parquet = parquet_reader(opened)
            for _, part in file.shares:
                found = 0
                for rows in unit_rows(parquet, part):
                    found += rows.num_rows
                    yield rows.cast(schema)
                if found != part.rows:
                    raise StoreError(
                        f"{where}: has {found} rows, but the log has {part.rows}; {advice}"
                    )
    except PipelineError:
        raise
    except UNREADABLE as error:
        raise StoreError(f"{where}: {one_line(error)}; {advice}") from error
