"""Merges small parts of one bucket into larger ones, rows as they are, as commits of the log.

    manifest ─► small files, in the order of commits ─► groups ─► one merged part and one log record
                                                                  for each group

A record moves all units of a group or none: it is put only if nothing was logged about any of them
since their parts were read. So a reader of the log sees each row once, whoever else commits,
retries or compacts meanwhile, and wherever this is killed: a merged part that no record names is
garbage, and so are the files that it replaces once one does. `pipeline.operations.vacuum` takes
both.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.commit_log import CommitLog
from pipeline.dataset.manifest import Manifest, read_manifest, write_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.part_reader import fetched, unit_rows
from pipeline.dataset.part_writer import PartWriter, merged_name
from pipeline.dataset.records import Part, PartsMoved, RowSpan
from pipeline.dataset.schema import clip_schema
from pipeline.errors import StoreError
from pipeline.formatting import format_bytes
from pipeline.storage.store import Store

PART_BYTES: Final = 128 << 20
"""Where a merged part is large enough."""


SMALL_SHARE: Final = 0.5
"""Of that size: files below are merged. Merged ones of full size are not, so none is written twice
for the same rows."""


@dataclass(slots=True, kw_only=True)
class Compaction:
    """What was merged."""

    output: str
    files_before: int = 0
    """Small parts that were merged."""
    bytes_before: int = 0
    files_after: int = 0
    bytes_after: int = 0
    rows: int = 0
    rows_left_out: int = 0
    """Rows in these files that no unit had any more."""
    changed_meanwhile: int = 0
    """Merged parts that were given up: somebody else logged something about one of the units."""

    exit_code = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": self.output,
            "files_before": self.files_before,
            "bytes_before": self.bytes_before,
            "files_after": self.files_after,
            "bytes_after": self.bytes_after,
            "rows": self.rows,
            "rows_left_out": self.rows_left_out,
            "changed_meanwhile": self.changed_meanwhile,
        }

    def lines(self) -> list[str]:
        """Return the same for a person."""
        lines = []
        if self.files_after:
            before = f"{self.files_before} files, {format_bytes(self.bytes_before)}"
            after = f"{self.files_after} files, {format_bytes(self.bytes_after)}"
            lines.append(f"merged     {before} → {after} · {self.rows} rows")
        elif not self.changed_meanwhile:
            lines.append(f"nothing to merge in {self.output}")
        if self.rows_left_out:
            lines.append(f"left out   {self.rows_left_out} rows that no unit had any more")
        if self.changed_meanwhile:
            lines.append(
                f"given up   {self.changed_meanwhile} merged parts, whose units changed meanwhile;"
                " run the command again"
            )
        if self.files_after:
            lines.append("next       vacuum deletes what was merged, when it is old enough")
        return lines


@dataclass(slots=True)
class _File:
    """A file of the dataset, and whose rows of it count."""

    part: Part
    """As the first of its units names it: path, bucket, bytes and digest are the file's."""
    shares: list[tuple[str, Part]] = field(default_factory=list)
    """Unit and its rows, in the order of rows."""

    @property
    def rows(self) -> int:
        """Rows that count."""
        return sum(part.rows for _, part in self.shares)

    @property
    def rows_left_out(self) -> int:
        """Rows that do not: their unit was done again."""
        place = self.part.place
        return place.of_rows - self.rows if place else 0

    @property
    def bytes(self) -> int:
        """Bytes that the rows which count take, about."""
        whole = self.rows + self.rows_left_out
        return self.part.bytes * self.rows // whole if whole else 0


def compact(
    store: Store, *, part_bytes: int = PART_BYTES, small_share: float = SMALL_SHARE
) -> Compaction:
    """Merge the small parts of each bucket; safe while jobs and other compactions run.

    Args:
        store: the dataset's root; put-if-absent is needed.
        part_bytes: where a merged part ends, after the file that reaches it.
        small_share: files below this share of it are merged, and merged ones of any size in which
            rows no longer count.

    Raises:
        ConfigError: there is no dataset.
        StoreError: log or parts are damaged, or the store refuses; what was logged stands.
    """
    dataset = read_dataset(store)
    store.require_put_if_absent()
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="compact")
    manifest = read_manifest(store)  # after the log object: what that has not seen is in here
    result = Compaction(output=store.uri)
    groups = list(_groups(manifest, part_bytes, small_share))
    concerned = {unit for group in groups for file in group for unit, _ in file.shares}
    parts = {u.unit: u.parts for u in manifest.units() if u.unit in concerned}
    known = dict.fromkeys(concerned, manifest.number)
    schema = clip_schema(dataset.tokenizers)
    for group in groups:
        units = dict.fromkeys(unit for file in group for unit, _ in file.shares)
        try:
            merged = _merge(store, schema, group)
        except StoreError:
            log.refresh()
            if all(log.changed.get(unit, 0) <= known[unit] for unit in units):
                raise
            result.changed_meanwhile += 1  # and its files may be gone
            continue
        now = _places(group, merged)
        moved = [
            PartsMoved(
                unit=unit,
                parts=tuple(now.get((unit, _key(part)), part) for part in parts[unit]),
            )
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


def _groups(manifest: Manifest, part_bytes: int, small_share: float) -> Iterator[list[_File]]:
    """Yield the files that become one, bucket by bucket, in the order of commits."""
    buckets: dict[str, dict[str, _File]] = {}
    waiting: set[str] = set()
    for unit in manifest.units():
        for part in unit.parts:
            file = buckets.setdefault(part.bucket, {}).setdefault(part.path, _File(part))
            file.shares.append((unit.unit, part))
        if unit.unit in manifest.reopened:
            # Its rows will be replaced; merged, they would be rows that no longer count.
            waiting.update(part.path for part in unit.parts)
    for files in buckets.values():
        group: list[_File] = []
        size = 0
        for file in files.values():
            file.shares.sort(key=lambda share: _key(share[1])[1])
            small = file.bytes < small_share * part_bytes
            if file.part.path in waiting or not (small or file.rows_left_out):
                continue
            group.append(file)
            size += file.bytes
            if size >= part_bytes:
                yield group
                group, size = [], 0
        if len(group) > 1 or any(file.rows_left_out for file in group):
            yield group


def _key(part: Part) -> tuple[str, int]:
    """Return what tells a unit's parts apart: it may have two places in one file."""
    return part.path, part.place.first_row if part.place else 0


def _merge(store: Store, schema: pa.Schema, group: Sequence[_File]) -> Part:
    """Write the rows that count into one part, a row group in memory at a time.

    Raises:
        StoreError: a file is gone or not what its record says, or the store refuses.
    """
    with PartWriter(
        store,
        schema,
        unit=merged_name(),
        bucket=group[0].part.bucket,
        max_part_bytes=sys.maxsize,
    ) as writer:
        for file in group:
            for rows in _rows(store, file):
                writer.add(rows.cast(schema))
        [part] = writer.publish()
    return part


def _rows(store: Store, file: _File) -> Iterator[pa.Table]:
    """Yield the rows of a file that count, if its bytes are those that its record says."""
    where = store.locate(file.part.path)
    advice = "run `python -m pipeline verify`"
    try:
        with fetched(store, file.part.path) as (opened, digest):
            if digest != file.part.sha256:
                raise StoreError(
                    f"{where}: SHA-256 {digest}, recorded {file.part.sha256}; {advice}"
                )
            parquet = pq.ParquetFile(opened)
            for _, part in file.shares:
                found = 0
                for rows in unit_rows(parquet, part):
                    found += rows.num_rows
                    yield rows
                if found != part.rows:
                    raise StoreError(f"{where}: {found} rows, recorded {part.rows}; {advice}")
    except StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{where}: {error}; {advice}") from error


def _places(group: Sequence[_File], merged: Part) -> dict[tuple[str, tuple[str, int]], Part]:
    """Return for each unit's part, by unit and `_key`, what it is in the merged one."""
    now = {}
    first_row = 0
    for file in group:
        for unit, part in file.shares:
            place = RowSpan(first_row=first_row, of_rows=merged.rows)
            now[unit, _key(part)] = replace(merged, rows=part.rows, place=place)
            first_row += part.rows
    return now
