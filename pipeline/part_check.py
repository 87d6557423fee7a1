"""Checks the files of one unit against its record: bytes, columns, rows, cells, quarantine.

A file whose bytes are not those of the record is not looked into: what stands in it says nothing.
Rows are read a row group at a time; what is kept grows with the clips of one unit.
"""

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.cell_check import check_cells, expected_shape
from pipeline.dataset import Dataset
from pipeline.errors import StoreError
from pipeline.findings import Finding
from pipeline.parts import QUARANTINE_SCHEMA, clip_schema
from pipeline.records import REASONS, Part, UnitRecord
from pipeline.storage import Store, is_local

_CHUNK: Final = 8 << 20

Check = Callable[[Part, pq.ParquetFile], Iterator[Finding]]


class UnitCheck:
    """Checks one unit's files, one after another, and remembers the clips that it saw.

    Args:
        store: the dataset's root.
        dataset: its head.
        unit: the record.

    Attributes:
        num_rows: rows that were looked at.
    """

    def __init__(self, store: Store, dataset: Dataset, unit: UnitRecord) -> None:
        self._store = store
        self._dataset = dataset
        self._unit = unit
        self._ids: set[str] = set()
        self._last: dict[str, tuple[str, int]] = {}
        """Bucket → key and clip index of its last row."""
        self._done: dict[str, set[str]] = {}
        """Bucket → keys whose rows are over."""
        self.num_rows = 0

    def part(self, part: Part) -> Iterator[Finding]:
        """Yield what is wrong with one part; the parts of a bucket come in order."""
        pattern = rf"data/{part.bucket}/{re.escape(self._unit.unit)}-\d+-([0-9a-f]{{16}})\.parquet"
        yield from self._file(part, pattern, clip_schema(self._dataset.tokenizers), self._rows)

    def quarantine(self) -> Iterator[Finding]:
        """Yield what is wrong with the unit's quarantine; comes after its parts."""
        if (part := self._unit.quarantine) is not None:
            pattern = rf"quarantine/{re.escape(self._unit.unit)}-([0-9a-f]{{16}})\.parquet"
            yield from self._file(part, pattern, QUARANTINE_SCHEMA, self._quarantined)

    def _file(self, part: Part, pattern: str, schema: pa.Schema, check: Check) -> Iterator[Finding]:
        name = re.fullmatch(pattern, part.path)
        if name is None or not part.sha256.startswith(name[1]):
            yield Finding("checksum", part.path, f"the name does not fit unit and {part.sha256}")
        try:
            with _fetched(self._store, part.path) as (file, digest):
                if digest != part.sha256:
                    text = f"SHA-256 {digest}, recorded {part.sha256}"
                    yield Finding("checksum", part.path, text)
                else:
                    yield from self._content(part, file, schema, check)
        except FileNotFoundError:
            yield Finding("missing", part.path, "gone since it was listed")

    def _content(
        self, part: Part, file: IO[bytes], schema: pa.Schema, check: Check
    ) -> Iterator[Finding]:
        try:
            parquet = pq.ParquetFile(file)
            found = parquet.schema_arrow
            # Not with `check_metadata`, which heeds what Parquet calls a list's elements, too.
            if not found.equals(schema) or found.metadata != schema.metadata:
                yield Finding("schema", part.path, "columns or metadata are not the dataset's")
                return
            if parquet.metadata.num_rows != part.rows:
                text = f"{parquet.metadata.num_rows} rows, recorded {part.rows}"
                yield Finding("rows", part.path, text)
            yield from check(part, parquet)
        except StoreError:
            raise
        except (pa.ArrowException, OSError) as error:
            yield Finding("unreadable", part.path, f"{type(error).__name__}: {error}")

    def _rows(self, part: Part, parquet: pq.ParquetFile) -> Iterator[Finding]:
        columns = self._dataset.tokenizers
        shape = cache(partial(expected_shape, self._dataset, bucket=part.bucket))
        for n in range(parquet.num_row_groups):
            rows = parquet.read_row_group(n)
            self.num_rows += rows.num_rows
            yield from self._identities(part, rows)
            lengths = rows["num_frames"].to_pylist()
            for column in columns:
                shapes = [shape(column=column, num_frames=length) for length in lengths]
                yield from check_cells(rows, column, shapes, part.path)

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


@contextmanager
def _fetched(store: Store, path: str) -> Iterator[tuple[IO[bytes], str]]:
    """Give a file, seekable, and the SHA-256 of its content; a remote one is fetched once."""
    digest = hashlib.sha256()
    with store.open(path) as source, tempfile.TemporaryFile() as copy:
        local = is_local(store.uri)
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            if not local:
                copy.write(chunk)
        file = source if local else copy
        file.seek(0)
        yield file, digest.hexdigest()
