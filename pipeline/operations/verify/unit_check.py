"""Checks one unit's files against its record: bytes, columns, rows, cells, statistics, quarantine.

Rows are read one row group at a time. Memory grows with the number of clips of one unit. A merged
part is fetched and checked with the first of its units, and kept open for the next ones.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.embeddings import embedding_shapes
from pipeline.dataset.metadata import Dataset, code_levels
from pipeline.dataset.parquet_file import UNREADABLE
from pipeline.dataset.part_reader import unit_rows
from pipeline.dataset.part_writer import is_merged
from pipeline.dataset.records import Part, UnitRecord
from pipeline.dataset.row_statistics import row_statistics
from pipeline.dataset.schema import QUARANTINE_SCHEMA
from pipeline.dataset.statistics import BucketStatistics, merged
from pipeline.errors import PipelineError, one_line
from pipeline.operations.findings import Finding
from pipeline.operations.verify.cell_check import check_cells
from pipeline.operations.verify.checked_file import MergedFiles, checked_parquet
from pipeline.quarantine import FILTERED, REASONS
from pipeline.storage.store import Store
from pipeline.tokenizers.identity import expected_shape

Check = Callable[[Part, pq.ParquetFile], Iterator[Finding]]


class UnitCheck:
    """Checks one unit's files, one after another, and keeps the ids of their clips.

    Args:
        store: the dataset's root.
        dataset: its metadata.
        unit: record of the unit.
        merged: merged parts, shared by the checks of all units.

    Attributes:
        num_rows: number of rows that were checked.
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
        """Key and clip index of the last row, by bucket."""
        self._done: dict[str, set[str]] = {}
        """Keys after which another key followed, by bucket."""
        self._statistics: dict[str, BucketStatistics] = {}
        """Statistics of the row groups without findings, by bucket."""
        self.num_rows = 0

    def part(self, part: Part) -> Iterator[Finding]:
        """Yield what is wrong with one part; call it for the parts of a bucket in order."""
        if is_merged(part.path):
            parquet, findings = self._merged.open(part)
            yield from findings
            yield from _guarded(part, parquet, self._rows)
            return
        pattern = rf"data/{part.bucket}/{re.escape(self._unit.unit)}-\d+"
        yield from self._file(part, pattern, self._dataset.schema, self._rows)

    def quarantine(self) -> Iterator[Finding]:
        """Yield what is wrong with the unit's quarantine; call it after its parts."""
        if (part := self._unit.quarantine) is not None:
            pattern = rf"quarantine/{re.escape(self._unit.unit)}"
            yield from self._file(part, pattern, QUARANTINE_SCHEMA, self._quarantined)

    def statistics(self) -> Iterator[Finding]:
        """Yield where the record's statistics differ from those of the rows.

        Call it after all parts of the unit, if nothing is wrong with them. The PSNR of clips that
        the job decoded back does not follow from the rows and is not compared.
        """
        recorded = self._unit.statistics
        for bucket in sorted({*recorded, *self._statistics}):
            theirs, ours = (
                asdict(replace(which.get(bucket, BucketStatistics()), psnr={}))
                for which in (recorded, self._statistics)
            )
            if wrong := [name for name, value in ours.items() if value != theirs[name]]:
                text = f"unit {self._unit.unit}, bucket {bucket}: {', '.join(wrong)}"
                yield Finding("statistics", "log", f"{text} differ from its rows")

    def _file(self, part: Part, pattern: str, schema: pa.Schema, check: Check) -> Iterator[Finding]:
        with checked_parquet(self._store, part, pattern, schema) as (parquet, findings):
            yield from findings
            yield from _guarded(part, parquet, check)

    def _rows(self, part: Part, parquet: pq.ParquetFile) -> Iterator[Finding]:
        if (place := part.place) is not None and place.first_row + part.rows > place.of_rows:
            text = f"{part.rows} rows from row {place.first_row}, the file has {place.of_rows}"
            yield Finding("rows", part.path, text)
            return
        columns = self._dataset.tokenizers
        shape = cache(partial(expected_shape, self._dataset, bucket=part.bucket))
        for rows in unit_rows(parquet, part):
            self.num_rows += rows.num_rows
            findings = list(self._identities(part, rows))
            lengths = rows["num_frames"].to_pylist()
            for column in columns:
                if column.kind == "embeddings":
                    made_by = self._dataset.identity["embedders"][column.name]
                    shapes = embedding_shapes(rows[f"{column.name}_ids"], made_by)
                else:
                    shapes = [shape(column=column, num_frames=length) for length in lengths]
                findings += check_cells(rows, column, shapes, part.path)
            yield from findings
            if not findings:
                ours = row_statistics(rows, columns, code_levels(self._dataset.identity))
                self._statistics = merged(self._statistics, {part.bucket: ours})

    def _identities(self, part: Part, rows: pa.Table) -> Iterator[Finding]:
        """Check which unit the rows belong to, and their order."""
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
                yield Finding("doubled", part.path, f"{clip_id}: has two rows")
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
        filtered = sum(row["reason"] in FILTERED for row in rows)
        samples = sum(row["clip_index"] is None for row in rows) - filtered
        clips = len(rows) - samples - filtered
        counted = counts.samples_quarantined, counts.clips_quarantined, counts.samples_filtered
        if (samples, clips, filtered) != counted:
            text = (
                f"{samples} samples, {clips} clips and {filtered} filtered samples, counted"
                f" {counted[0]}, {counted[1]} and {counted[2]}"
            )
            yield Finding("quarantine", part.path, text)
        for row in rows:
            clip_id = f"{row['unit']}/{row['key']}/{row['clip_index']}"
            if row["unit"] != self._unit.unit or row["reason"] not in REASONS | FILTERED:
                text = f"{clip_id}: reason {row['reason']}, unit {row['unit']}"
                yield Finding("quarantine", part.path, text)
            if clip_id in self._ids:
                yield Finding("doubled", part.path, f"{clip_id}: also has a row")


def _guarded(part: Part, parquet: pq.ParquetFile | None, check: Check) -> Iterator[Finding]:
    """Yield what is wrong with the content of a file that could be opened."""
    if parquet is None:
        return
    try:
        yield from check(part, parquet)
    except PipelineError:
        raise
    except UNREADABLE as error:
        yield Finding("unreadable", part.path, one_line(error))
