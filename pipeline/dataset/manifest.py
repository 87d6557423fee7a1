"""The manifest: what is committed, as one table with a row per unit; the only way into a dataset.

`manifest/<n>.parquet` is a checkpoint of the log up to record n. A reader reads the newest one and
the few records after it, instead of the whole log. It holds nothing that the log does not: two
writers of one number write the same table.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice, takewhile
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from pipeline.dataset.format_version import FORMAT_VERSION, require_version
from pipeline.dataset.log_records import LogRecord, numbers_in, read_records
from pipeline.dataset.parquet_file import parquet_file
from pipeline.dataset.records import Counts, Part, Publication, UnitRecord
from pipeline.dataset.statistics import BucketStatistics
from pipeline.errors import ConfigError, StoreError, one_line
from pipeline.records import from_json, to_json
from pipeline.storage.store import Store

_PART: Final = pa.struct(
    [
        ("path", pa.string()),
        ("bucket", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("place", pa.struct([("first_row", pa.int64()), ("of_rows", pa.int64())])),
    ]
)


_COUNTS: Final = tuple(field.name for field in fields(Counts))


_SCHEMA: Final = pa.schema(
    [
        ("unit", pa.string()),
        ("log_number", pa.int64()),
        ("sources", pa.list_(pa.string())),
        ("parts", pa.list_(_PART)),
        ("quarantine", _PART),
        *((name, pa.int64()) for name in _COUNTS),
        ("reasons", pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int64())]))),
        ("timings", pa.list_(pa.struct([("stage", pa.string()), ("seconds", pa.float64())]))),
        ("statistics", pa.string()),
    ]
)


_PARTS: Final = TypeAdapter(list[Part])


_UNIT: Final = TypeAdapter(UnitRecord)


_PUBLICATIONS: Final = TypeAdapter(tuple[Publication, ...])


_ROW_GROUP_ROWS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """All committed units up to one record of the log."""

    number: int
    """Number of the record."""
    table: pa.Table
    """One row per unit, in the order of commits. Columns: unit, log_number (of the record that
    names its parts), sources, parts, quarantine, one column for each of `Counts`, reasons, timings,
    statistics (JSON)."""

    fingerprint: str | None = None
    """Fingerprint of the dataset; None while nothing is committed."""

    reopened: frozenset[str] = frozenset()
    """Units that the next run does again; until then they count as they are."""

    publications: tuple[Publication, ...] = ()
    """Announced tables, by format those with the newest base. `publish` wrote them, or may still
    do so."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def parts(self, bucket: str | None = None) -> list[Part]:
        """Return the parts of all units, or of one bucket, in the order of commits."""
        flat = pc.list_flatten(self.table["parts"]).combine_chunks()
        if bucket is not None:
            flat = flat.filter(pc.equal(pc.struct_field(flat, "bucket"), bucket))
        return _PARTS.validate_python(flat.to_pylist())

    def quarantine_parts(self) -> list[Part]:
        """Return the quarantine tables of all units that have one."""
        return _PARTS.validate_python(self.table["quarantine"].drop_null().to_pylist())

    def counts(self) -> Counts:
        """Return the sum over all units."""
        return Counts(**{name: pc.sum(self.table[name]).as_py() or 0 for name in _COUNTS})

    def units(self) -> Iterator[UnitRecord]:
        """Yield every unit as its record, a batch of rows in memory at a time."""
        for batch in self.table.to_batches(max_chunksize=_ROW_GROUP_ROWS):
            for row in batch.to_pylist():
                yield _unit_record(row)

    def unit(self, name: str) -> UnitRecord | None:
        """Return the record of one unit, None if it is not committed."""
        rows = self.table.filter(pc.equal(self.table["unit"], name)).to_pylist()
        return _unit_record(rows[0]) if rows else None

    def extended(self, records: Iterable[LogRecord]) -> "Manifest":
        """Return the manifest with the log's next records; a unit that was done again is replaced.

        Raises:
            StoreError: the records have a gap, commit a unit a second time, or move one that is not
                committed.
            ConfigError: a record is of another fingerprint.
        """
        number, fingerprint, reopened = self.number, self.fingerprint, set(self.reopened)
        publications = self.publications
        replaced: dict[str, int] = {}  # unit → number of the record that replaced it last
        moved: dict[str, tuple[int, tuple[Part, ...]]] = {}
        tables = [self.table]
        rows: list[dict[str, Any]] = []
        for record in records:
            if record.number != number + 1:
                raise StoreError(f"log record {record.number} follows on {number}")
            if fingerprint not in (None, record.fingerprint):
                raise ConfigError(
                    f"log record {number + 1}: fingerprint {record.fingerprint}, the records"
                    f" before it have {fingerprint}"
                )
            number, fingerprint = record.number, record.fingerprint
            rows += [_row(unit, number) for unit in record.units]
            done_again = reopened.intersection(unit.unit for unit in record.units)
            replaced.update(dict.fromkeys(done_again, number))
            reopened.difference_update(done_again)
            reopened.update(unit.unit for unit in record.reopened)
            for new in record.published:
                alive = (p for p in publications if p.format != new.format or p.base >= new.base)
                publications = (*alive, new)
            for unit in record.units:
                moved.pop(unit.unit, None)  # the rows that were moved are replaced
            moved.update((unit.unit, (number, unit.parts)) for unit in record.moved)
            if len(rows) >= _ROW_GROUP_ROWS:
                tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
                rows = []
        tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
        table = _with_moved(_without(pa.concat_tables(tables), replaced), moved)
        if number != self.number and pc.count_distinct(table["unit"]).as_py() != len(table):
            raise StoreError(f"log up to record {number}: a unit is committed twice")
        return Manifest(number, table, fingerprint, frozenset(reopened), publications)


def read_manifest(store: Store, number: int | None = None) -> Manifest:
    """Return all that is committed: a checkpoint and the log's records after it.

    Args:
        store: the dataset's root.
        number: number of the log's last record to read; None reads to the end.

    Raises:
        ConfigError: the log does not have that record, or is of another format version.
        StoreError: the log has a gap, or a checkpoint or record is damaged.
    """
    checkpoint = read_checkpoint(store, number)
    records = read_records(store, checkpoint.number)
    if number is None:
        return checkpoint.extended(records)
    manifest = checkpoint.extended(islice(records, max(0, number - checkpoint.number)))
    if manifest.number != number:
        raise ConfigError(
            f"{store.uri}: version = {number}: the log has records up to"
            f" {max(numbers_in(store, 'log', '.json'), default=0)}; name one of them, or none for"
            " the newest"
        )
    return manifest


def replay_log(store: Store, number: int | None = None) -> Manifest:
    """Return what is committed up to a record, or up to the newest one, from the log alone.

    Raises:
        StoreError: the log has a gap, or a record is damaged.
    """
    records = read_records(store, 0)
    if number is not None:
        records = takewhile(lambda record: record.number <= number, records)
    return Manifest(0, _SCHEMA.empty_table()).extended(records)


def read_checkpoint(
    store: Store, up_to: int | None = None, *, columns: list[str] | None = None
) -> Manifest:
    """Return the newest checkpoint alone; an empty manifest of number 0 if there is none.

    Args:
        store: the dataset's root.
        up_to: largest number of a checkpoint to take; None takes any.
        columns: names of the columns to read, the others are null; None reads all. The statistics
            of a million units alone take some hundred MB.
    """
    numbers = numbers_in(store, "manifest", ".parquet")
    if up_to is not None:
        numbers = [number for number in numbers if number <= up_to]
    if not numbers:
        return Manifest(0, _SCHEMA.empty_table())
    path = manifest_path(numbers[-1])
    where = store.locate(path)
    try:
        with parquet_file(store, path) as parquet:
            table = parquet.read(columns=columns)
        head = json.loads(table.schema.metadata[b"vidtok"])
        require_version(head["format_version"], where)
        for field in _SCHEMA:
            if columns is not None and field.name not in columns:
                table = table.append_column(field, pa.nulls(len(table), field.type))
        table = table.select(_SCHEMA.names).cast(_SCHEMA)
    except (pa.ArrowException, KeyError) as error:
        raise StoreError(
            f"{where}: {one_line(error)}; delete it: the log holds all that it says"
        ) from error
    publications = _PUBLICATIONS.validate_python(head["publications"])
    reopened = frozenset(head["reopened"])
    return Manifest(head["number"], table, head["fingerprint"], reopened, publications)


def write_manifest(store: Store) -> Manifest:
    """Write a checkpoint of the log if it has records after the newest one; return the manifest."""
    checkpoint = read_checkpoint(store)
    manifest = checkpoint.extended(read_records(store, checkpoint.number))
    if manifest.number == checkpoint.number:
        return manifest
    head = {
        "format_version": FORMAT_VERSION,
        "number": manifest.number,
        "fingerprint": manifest.fingerprint,
        "reopened": sorted(manifest.reopened),
        "publications": _PUBLICATIONS.dump_python(manifest.publications),
    }
    table = manifest.table.replace_schema_metadata({"vidtok": json.dumps(head)})
    with store.stage("manifest") as staged:
        pq.write_table(table, staged.file, compression="zstd", row_group_size=_ROW_GROUP_ROWS)
        staged.publish(manifest_path(manifest.number))
    return manifest


def manifest_path(number: int) -> str:
    """Return the path of the checkpoint of the log up to a record."""
    return f"manifest/{number:020d}.parquet"


def _without(table: pa.Table, replaced: Mapping[str, int]) -> pa.Table:
    """Return the table without the rows of units that a later record replaced."""
    if not replaced:
        return table
    names, numbers = table["unit"].to_pylist(), table["log_number"].to_pylist()
    counts = [n >= replaced.get(name, 0) for name, n in zip(names, numbers, strict=True)]
    return table.filter(pa.array(counts))


def _with_moved(table: pa.Table, moved: Mapping[str, tuple[int, tuple[Part, ...]]]) -> pa.Table:
    """Return the table with other parts for units whose rows were moved by a record."""
    if not moved:
        return table
    names = table["unit"].to_pylist()
    changed = [n for n, name in enumerate(names) if name in moved]
    if len(changed) != len(moved):
        unknown = sorted(moved.keys() - set(names))
        raise StoreError(f"the log moves rows of {unknown[0]}, which is not committed")
    order = list(range(len(names)))
    for place, n in enumerate(changed):
        order[n] = len(names) + place
    for name, values in (
        ("log_number", [moved[names[n]][0] for n in changed]),
        ("parts", [list(map(asdict, moved[names[n]][1])) for n in changed]),
    ):
        field = _SCHEMA.field(name)
        chunks = [*table[name].chunks, pa.array(values, field.type)]
        column = pa.chunked_array(chunks, field.type).take(pa.array(order))
        table = table.set_column(table.schema.get_field_index(name), field, column)
    return table


def _row(unit: UnitRecord, log_number: int) -> dict[str, Any]:
    return {
        **_UNIT.dump_python(unit, include={"unit", "sources", "parts", "quarantine"}),
        **asdict(unit.counts),
        "log_number": log_number,
        "reasons": [{"reason": r, "count": c} for r, c in sorted(unit.reasons.items())],
        "timings": [{"stage": s, "seconds": v} for s, v in sorted(unit.timings.items())],
        "statistics": to_json(unit.statistics).decode(),
    }


def _unit_record(row: dict[str, Any]) -> UnitRecord:
    nested = {
        "counts": {name: row[name] for name in _COUNTS},
        "reasons": {entry["reason"]: entry["count"] for entry in row["reasons"]},
        "timings": {entry["stage"]: entry["seconds"] for entry in row["timings"]},
        "statistics": from_json(dict[str, BucketStatistics], row["statistics"]),
    }
    return _UNIT.validate_python(row | nested)
