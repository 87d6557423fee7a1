"""Checks one unit's files against its record: bytes, columns, rows, cells, statistics, quarantine.

A file whose bytes are not those of the record is not looked into: what stands in it says nothing.
Rows are read a row group at a time; what is kept grows with the clips of one unit. A merged part is
fetched and checked as a file when the first of its units is, and kept for those that follow.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.metadata import Dataset, code_levels
from pipeline.dataset.part_reader import unit_rows
from pipeline.dataset.records import Part, UnitRecord
from pipeline.dataset.schema import QUARANTINE_SCHEMA, clip_schema
from pipeline.dataset.statistics import BucketStatistics, merged
from pipeline.dataset.statistics_collector import StatisticsGatherer
from pipeline.errors import StoreError
from pipeline.operations.findings import Finding
from pipeline.operations.verify.cell_check import check_cells
from pipeline.operations.verify.checked_file import MergedFiles, checked_parquet
from pipeline.quarantine import REASONS
from pipeline.storage.store import Store
from pipeline.tokenizers.identity import expected_shape

Check = Callable[[Part, pq.ParquetFile], Iterator[Finding]]


class UnitCheck:
    """Checks one unit's files, one after another, and remembers the clips that it saw.

    Args:
        store: the dataset's root.
        dataset: its head.
        unit: the record.
        merged: the dataset's merged parts, for all units.

    Attributes:
        num_rows: rows that were looked at.
    """

    def __init__(
        self, store: Store, dataset: Dataset, unit: UnitRecord, merged: MergedFiles
    ) -> None:
        self._store = store
        self._merged = merged
        self._dataset = dataset
        self._unit = unit
        self._ids: set[str] = set()
        self._last: dict[str, tuple[str, int]] = {}
        """Bucket → key and clip index of its last row."""
        self._done: dict[str, set[str]] = {}
        """Bucket → keys whose rows are over."""
        self._statistics: dict[str, BucketStatistics] = {}
        """Of the rows that were looked at and in which nothing is wrong."""
        self.num_rows = 0

    def part(self, part: Part) -> Iterator[Finding]:
        """Yield what is wrong with one part; the parts of a bucket come in order."""
        if part.place is not None:
            parquet, findings = self._merged.open(part)
            yield from findings
            yield from _guarded(part, parquet, self._rows)
            return
        pattern = rf"data/{part.bucket}/{re.escape(self._unit.unit)}-\d+-([0-9a-f]{{16}})\.parquet"
        yield from self._file(part, pattern, clip_schema(self._dataset.tokenizers), self._rows)

    def quarantine(self) -> Iterator[Finding]:
        """Yield what is wrong with the unit's quarantine; comes after its parts."""
        if (part := self._unit.quarantine) is not None:
            pattern = rf"quarantine/{re.escape(self._unit.unit)}-([0-9a-f]{{16}})\.parquet"
            yield from self._file(part, pattern, QUARANTINE_SCHEMA, self._quarantined)

    def statistics(self) -> Iterator[Finding]:
        """Yield where the record's statistics are not those of the rows.

        Comes after all parts of the unit, if nothing is wrong with them. What decoding clips back
        gave does not follow from the rows, and is left out.
        """
        recorded = self._unit.statistics
        for bucket in sorted({*recorded, *self._statistics}):
            theirs, ours = (
                asdict(replace(which.get(bucket, BucketStatistics()), psnr={}))
                for which in (recorded, self._statistics)
            )
            if wrong := [name for name, value in ours.items() if value != theirs[name]]:
                text = f"unit {self._unit.unit}, bucket {bucket}: {', '.join(wrong)}"
                yield Finding("statistics", "log", f"{text} are not those of its rows")

    def _file(self, part: Part, pattern: str, schema: pa.Schema, check: Check) -> Iterator[Finding]:
        with checked_parquet(self._store, part, pattern, schema) as (parquet, findings):
            yield from findings
            yield from _guarded(part, parquet, check)

    def _rows(self, part: Part, parquet: pq.ParquetFile) -> Iterator[Finding]:
        columns = self._dataset.tokenizers
        shape = cache(partial(expected_shape, self._dataset, bucket=part.bucket))
        before = self.num_rows
        for rows in unit_rows(parquet, part):
            self.num_rows += rows.num_rows
            findings = list(self._identities(part, rows))
            lengths = rows["num_frames"].to_pylist()
            for column in columns:
                shapes = [shape(column=column, num_frames=length) for length in lengths]
                findings += check_cells(rows, column, shapes, part.path)
            yield from findings
            if not findings:
                gatherer = StatisticsGatherer(columns, code_levels(self._dataset.identity))
                gatherer.add(part.bucket, rows)
                self._statistics = merged(self._statistics, gatherer.result())
        if part.place is not None and (found := self.num_rows - before) != part.rows:
            text = f"{found} rows from row {part.place.first_row} on, recorded {part.rows}"
            yield Finding("rows", part.path, text)

    def _identities(self, part: Part, rows: pa.Table) -> Iterator[Finding]:
        """Check whose rows they are, and that they come in the order of the format."""
        names = ("clip_id", "unit", "key", "clip_index", "start_s", "end_s", "source_fps")
        done = self._done.setdefault(part.bucket, set())
        for clip_id, unit, key, index, start_s, end_s, fps in zip(
            *(rows[name].to_pylist() for name in names), strict=True
        ):
            if unit != self._unit.unit or clip_id != f"{unit}/{key}/{index}":
                text = f"{clip_id}: not of unit {self._unit.unit}, key {key}, clip {index}"
                yield Finding("rows", part.path, text)
            is_image = (start_s, end_s, fps) == (0, 0, 0)
            if not start_s < end_s and not is_image:
                text = f"{clip_id}: start_s {start_s} is not below end_s {end_s}"
                yield Finding("rows", part.path, text)
            last_key, last_index = self._last.get(part.bucket, (key, -1))
            if key != last_key:
                done.add(last_key)
            if clip_id in self._ids:
                yield Finding("doubled", part.path, f"{clip_id}: has a row already")
            elif key in done or (key == last_key and index <= last_index):
                yield Finding("order", part.path, f"{clip_id}: after {last_key}/{last_index}")
            self._ids.add(clip_id)
            self._last[part.bucket] = (key, index)

    def _quarantined(self, part: Part, parquet: pq.ParquetFile) -> Iterator[Finding]:
        counts = self._unit.counts
        rows = parquet.read().to_pylist()
        reasons = Counter(row["reason"] for row in rows)
        if reasons != self._unit.reasons:
            text = f"reasons {dict(reasons)}, recorded {self._unit.reasons}"
            yield Finding("quarantine", part.path, text)
        samples = sum(row["clip_index"] is None for row in rows)
        if (samples, len(rows) - samples) != (counts.samples_quarantined, counts.clips_quarantined):
            text = (
                f"{samples} samples and {len(rows) - samples} clips, counted"
                f" {counts.samples_quarantined} and {counts.clips_quarantined}"
            )
            yield Finding("quarantine", part.path, text)
        for row in rows:
            clip_id = f"{row['unit']}/{row['key']}/{row['clip_index']}"
            if row["unit"] != self._unit.unit or row["reason"] not in REASONS:
                text = f"{clip_id}: reason {row['reason']}, unit {row['unit']}"
                yield Finding("quarantine", part.path, text)
            if clip_id in self._ids:
                yield Finding("doubled", part.path, f"{clip_id}: has a row, too")


def _guarded(part: Part, parquet: pq.ParquetFile | None, check: Check) -> Iterator[Finding]:
    """Yield what is wrong with the content; a file that cannot be opened has none."""
    if parquet is None:
        return
    try:
        yield from check(part, parquet)
    except StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        yield Finding("unreadable", part.path, f"{type(error).__name__}: {error}")
