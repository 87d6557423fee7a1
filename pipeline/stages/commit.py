"""Commit one unit: check its payloads against the closing row, then write its parts.

    (PayloadHeader, rows) … in seq order ─► checks ─► parts, quarantine ─► UnitRecord

Counts alone do not prove that the rows are right: a replay in which one sample failed can deliver
one clip twice, drop another, and still balance. So each payload must carry the digest that the
closing row lists for its number. Its rows must be the clips of its header, in their order, without
those that the tokenizer quarantined. Nothing reaches the store before the last check. A later crash
leaves orphaned files, which no record names.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from pipeline.dataset.part_writer import (
    MAX_PART_BYTES,
    ROW_GROUP_BYTES,
    PartWriter,
    write_quarantine,
)
from pipeline.dataset.quantized import scale_fault
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.row_statistics import row_statistics
from pipeline.dataset.schema import TokenizerColumn, packed_schema, tokenizer_columns
from pipeline.dataset.statistics import BucketStatistics, merged
from pipeline.errors import UnitRejected
from pipeline.records import WorkUnit, unit_sources
from pipeline.stages.messages import (
    Closing,
    PayloadHeader,
    byte_lengths,
    decode_rows,
    plain_rows,
    with_shot_ends,
)
from pipeline.storage.store import Store


def commit_unit(
    unit: WorkUnit,
    closing: Closing,
    rows: Iterable[tuple[PayloadHeader, bytes]],
    *,
    store: Store,
    schema: pa.Schema,
    levels: Mapping[str, Sequence[int]],
    row_group_bytes: int = ROW_GROUP_BYTES,
    max_part_bytes: int = MAX_PART_BYTES,
) -> UnitRecord:
    """Write a unit's parts and return its record, which is not in the log yet.

    Args:
        unit: what was planned.
        closing: the unit's last row.
        rows: payloads in seq order, pulled and dropped one at a time; the bytes are an Arrow IPC
            stream of the surviving clips (`pipeline.stages.messages.encode_rows`).
        store: the dataset's root.
        schema: result of `pipeline.dataset.schema.clip_schema`.
        levels: levels of the channels of each FSQ tokenizer, by its name.
        row_group_bytes: size in memory at which a row group ends.
        max_part_bytes: size on disk at which a part ends.

    Raises:
        UnitRejected: the payloads are not those that the closing row lists; no part was written.
        StoreError: the store failed; it may hold orphaned parts.
    """
    began = time.monotonic()
    _check_closing(unit, closing)
    check = _PayloadCheck(closing, schema)
    columns = tokenizer_columns(schema)
    statistics: dict[str, BucketStatistics] = {}
    quarantined = list(closing.quarantined)
    timings = dict(closing.timings)
    with contextlib.ExitStack() as cleanup:
        writers: dict[str, PartWriter] = {}
        for header, data in rows:
            table = with_shot_ends(check.accept(header, data), closing.shot_ends)
            quarantined += header.quarantined
            for stage, seconds in header.timings.items():
                timings[stage] = timings.get(stage, 0.0) + seconds
            bucket = header.bucket.name
            if table.num_rows and bucket not in writers:
                writer = PartWriter(
                    store,
                    schema,
                    unit=unit.unit,
                    bucket=bucket,
                    row_group_bytes=row_group_bytes,
                    max_part_bytes=max_part_bytes,
                )
                writers[bucket] = cleanup.enter_context(writer)
            if table.num_rows:
                for piece in plain_rows(table, schema, row_group_bytes):
                    writers[bucket].add(piece)
                found = row_statistics(table, columns, levels, header.psnr)
                statistics = merged(statistics, {bucket: found})
        check.finish()
        parts = tuple(part for writer in writers.values() for part in writer.publish())
        quarantine = write_quarantine(store, unit.unit, quarantined)
    moved = check.clips_quarantined
    timings["commit"] = time.monotonic() - began
    return UnitRecord(
        unit=unit.unit,
        sources=unit_sources(unit),
        parts=parts,
        quarantine=quarantine,
        counts=replace(
            closing.counts,
            clips_written=closing.counts.clips_written - moved,
            clips_quarantined=closing.counts.clips_quarantined + moved,
        ),
        reasons=dict(sorted(Counter(record.reason for record in quarantined).items())),
        dropped=dict(sorted(closing.dropped.items())),
        timings=dict(sorted(timings.items())),
        statistics=statistics,
    )


def _check_closing(unit: WorkUnit, closing: Closing) -> None:
    if closing.unit != unit.unit:
        raise UnitRejected(f"{unit.unit}: the closing row belongs to {closing.unit}")
    if imbalance := closing.counts.imbalance():
        raise UnitRejected(f"{unit.unit}: {imbalance}")
    for record in closing.quarantined:
        if record.unit != unit.unit:
            raise UnitRejected(f"{unit.unit}: a quarantine record belongs to {record.unit}")
    counts = closing.counts
    if (dropped := sum(closing.dropped.values())) != counts.clips_filtered:
        raise UnitRejected(
            f"{unit.unit}: {counts.clips_filtered} clips counted as filtered, {dropped} by rule"
        )
    filtered = sum(record.is_filtered for record in closing.quarantined)
    if filtered != counts.samples_filtered:
        raise UnitRejected(
            f"{unit.unit}: {counts.samples_filtered} samples counted as filtered, {filtered}"
            " recorded"
        )
    samples = sum(record.clip_index is None for record in closing.quarantined) - filtered
    clips = len(closing.quarantined) - samples - filtered
    if (samples, clips) != (counts.samples_quarantined, counts.clips_quarantined):
        raise UnitRejected(
            f"{unit.unit}: {counts.samples_quarantined} samples and {counts.clips_quarantined}"
            f" clips counted as quarantined, {samples} and {clips} recorded"
        )


class _PayloadCheck:
    """Checks payloads against the closing row's list, one after another."""

    def __init__(self, closing: Closing, schema: pa.Schema) -> None:
        self._closing = closing
        self._schema = packed_schema(schema)
        self._columns = tokenizer_columns(schema)
        self._ids: set[str] = set()
        self._seq = 0
        self.clips_quarantined = 0

    def accept(self, header: PayloadHeader, data: bytes) -> pa.Table:
        """Return the payload's rows; they must be the next ones of the unit."""
        unit, digests = self._closing.unit, self._closing.digests
        where = f"{unit}: payload {self._seq}"
        if header.unit != unit or header.seq != self._seq:
            raise UnitRejected(f"{where}: got {header.unit}, payload {header.seq}")
        if self._seq >= len(digests):
            raise UnitRejected(f"{where}: the closing row lists {len(digests)}")
        if header.digest != digests[self._seq]:
            raise UnitRejected(
                f"{where}: digest {header.digest}, the closing row lists {digests[self._seq]}: the"
                " unit was decoded twice, with different outcomes"
            )
        survivors = self._survivors(where, header)
        try:
            table = decode_rows(data)
        except pa.ArrowInvalid as error:
            raise UnitRejected(f"{where}: not an Arrow stream: {error}") from error
        if not table.schema.equals(self._schema, check_metadata=True):
            raise UnitRejected(f"{where}: schema {_difference(table.schema, self._schema)}")
        if table["clip_id"].to_pylist() != survivors:
            raise UnitRejected(f"{where}: its rows are not its {len(survivors)} surviving clips")
        for column in self._columns:
            _check_cells(where, table, column)
        self._seq += 1
        return table

    def finish(self) -> None:
        """Check that no payload and no clip is missing."""
        unit, listed = self._closing.unit, len(self._closing.digests)
        if self._seq != listed:
            raise UnitRejected(f"{unit}: {self._seq} payloads of {listed} arrived")
        clips, counted = len(self._ids), self._closing.counts.clips_written
        if clips != counted:
            raise UnitRejected(f"{unit}: {clips} clips arrived, {counted} counted")

    def _survivors(self, where: str, header: PayloadHeader) -> list[str]:
        """Return the ids that must be rows; every other id of the header must be quarantined."""
        lost = {record.name for record in header.quarantined}
        strangers = lost.difference(header.clip_ids)
        if strangers or len(lost) != len(header.quarantined):
            raise UnitRejected(f"{where}: quarantines a clip that it does not hold, or one twice")
        if not all(clip_id.startswith(f"{header.unit}/") for clip_id in header.clip_ids):
            raise UnitRejected(f"{where}: holds clips of another unit")
        before = len(self._ids)
        self._ids.update(header.clip_ids)
        if len(self._ids) - before != len(header.clip_ids):
            raise UnitRejected(f"{where}: holds a clip a second time")
        self.clips_quarantined += len(lost)
        return [clip_id for clip_id in header.clip_ids if clip_id not in lost]


def _check_cells(where: str, table: pa.Table, column: TokenizerColumn) -> None:
    """Check that the number of each row's bytes fits its shape."""
    shapes = table[f"{column.name}_shape"].to_pylist()
    expected = [column.cell_bytes(shape) for shape in shapes]
    for shape in shapes:
        if len(shape) != len(column.axes):
            raise UnitRejected(f"{where}: {column.name}_shape {shape}: axes {column.axes}")
    for name in column.cell_columns:
        if byte_lengths(table[name]).to_pylist() != expected:
            raise UnitRejected(f"{where}: {name}: bytes and {column.name}_shape disagree")
    for name in column.scale_columns:
        for scale, shape in zip(table[name].to_pylist(), shapes, strict=True):
            if fault := scale_fault(scale, shape[0], column):
                raise UnitRejected(f"{where}: {fault}")


def _difference(got: pa.Schema, wanted: pa.Schema) -> str:
    fields = [str(f) for f in got if f not in list(wanted)]
    missing = [str(f) for f in wanted if f not in list(got)]
    if fields or missing:
        return f"has {fields or 'nothing else'}, lacks {missing or 'nothing'}"
    if got.names == wanted.names:
        return f"has other metadata: {got.metadata}; the dataset's is {wanted.metadata}"
    return "has the dataset's columns in another order"
