"""The manifest: what is committed, as one table with a row per unit; the only way into a dataset.

`manifest/<n>.parquet` is a checkpoint of the log up to record n. A reader reads the newest one and
the few records after it, instead of the whole log. It holds nothing that the log does not: two
writers of one number write the same table.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import islice, takewhile
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import TypeAdapter

from pipeline.dataset.format_version import FORMAT_VERSION, RESTORE, damage_refused, parse_versioned
from pipeline.dataset.log.log_records import LogRecord, numbers_in, read_records
from pipeline.dataset.parquet_file import parquet_writer, read_group, seal
from pipeline.dataset.part_reader import open_parquet
from pipeline.dataset.records import (
    Counts,
    Part,
    PartsMoved,
    Publication,
    RowsForgotten,
    UnitRecord,
)
from pipeline.dataset.statistics import MOST, BucketStatistics
from pipeline.errors import ConfigError, DamagedFile, StoreError
from pipeline.records import from_json, to_json
from pipeline.storage.store import Store

_RANGES: Final = pa.list_(pa.list_(pa.int64()))
_SPAN: Final = pa.struct({"first_row": pa.int64(), "of_rows": pa.int64(), "left_out": _RANGES})
_PART: Final = pa.struct(
    [
        ("path", pa.string()),
        ("bucket", pa.string()),
        ("rows", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("place", _SPAN),
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
        ("dropped", pa.list_(pa.struct([("rule", pa.string()), ("count", pa.int64())]))),
        ("timings", pa.list_(pa.struct([("stage", pa.string()), ("seconds", pa.float64())]))),
        ("statistics", pa.string()),
    ]
)

_PARTS: Final = TypeAdapter(list[Part])

_UNIT: Final = TypeAdapter(UnitRecord)

_ROW_GROUP_ROWS: Final = 20_000

_DELETE: Final = "delete the files in manifest/, because the log holds all that they say"

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """Value of the key `vidtok` in a checkpoint's metadata."""

    number: int
    fingerprint: str | None
    reopened: tuple[str, ...]
    publications: tuple[Publication, ...]
    forgets: tuple[int, ...]
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, slots=True)
class Manifest:
    """All committed units up to one record of the log."""

    number: int
    """Number of the record."""
    table: pa.Table
    """One row per unit, in the order of commits. Columns: unit, log_number (of the record that
    names its parts), sources, parts, quarantine, one column for each of `Counts`, reasons, dropped,
    timings, statistics (JSON)."""

    fingerprint: str | None = None
    """Fingerprint of the dataset; None while nothing is committed."""

    reopened: frozenset[str] = frozenset()
    """Units that the next run does again; until then they count as they are."""

    publications: tuple[Publication, ...] = ()
    """Announced tables, by format those with the newest base. `publish` wrote them, or may still
    do so."""

    forgets: tuple[int, ...] = ()
    """Numbers of the records that hold digests of forgotten keys and sources, ascending."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def parts(self, bucket: str | None = None) -> list[Part]:
        """Return the parts of all units, or of one bucket, in the order of commits."""
        flat = pc.list_flatten(self.table["parts"]).combine_chunks()
        if bucket is not None:
            flat = flat.filter(pc.equal(pc.struct_field(flat, "bucket"), bucket))
        return self._parts(flat.to_pylist())

    def quarantine_parts(self) -> list[Part]:
        """Return the quarantine tables of all units that have one."""
        return self._parts(self.table["quarantine"].drop_null().to_pylist())

    def counts(self) -> Counts:
        """Return the sum over all units."""
        return Counts(**{name: pc.sum(self.table[name]).as_py() or 0 for name in _COUNTS})

    def units(self) -> Iterator[UnitRecord]:
        """Yield every unit as its record, a batch of rows in memory at a time."""
        for batch in self.table.to_batches(max_chunksize=_ROW_GROUP_ROWS):
            for row in batch.to_pylist():
                yield self._unit_record(row)

    def unit(self, name: str) -> UnitRecord | None:
        """Return the record of one unit, None if it is not committed."""
        rows = self.table.filter(pc.equal(self.table["unit"], name)).to_pylist()
        return self._unit_record(rows[0]) if rows else None

    def extended(self, records: Iterable[LogRecord]) -> "Manifest":
        """Return the manifest with the log's next records; a unit that was done again is replaced.

        Raises:
            StoreError: the records have a gap, commit a unit a second time, or move one that is not
                committed.
            ConfigError: a record is of another fingerprint.
        """
        number, fingerprint, reopened = self.number, self.fingerprint, set(self.reopened)
        publications, forgets = self.publications, list(self.forgets)
        replaced: dict[str, int] = {}  # unit → number of the record that replaced it last
        changes: dict[str, dict[str, Any]] = {}  # unit → column → new value
        tables = [self.table]
        rows: list[dict[str, Any]] = []
        for record in records:
            if record.number != number + 1:
                raise StoreError(
                    f"log record {record.number} follows record {number}: records between them are"
                    " missing; restore them from a copy"
                )
            if fingerprint not in (None, record.fingerprint):
                raise ConfigError(
                    f"log record {number + 1}: fingerprint {record.fingerprint}, the records before"
                    f" it have {fingerprint}; restore it from a copy"
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
                changes.pop(unit.unit, None)  # the rows that were moved are replaced
            changed: tuple[PartsMoved | RowsForgotten, ...] = (*record.moved, *record.trimmed)
            for now in changed:
                changes.setdefault(now.unit, {}).update(_changes(now, number))
            forgets += [number] * bool(record.forgotten)
            if len(rows) >= _ROW_GROUP_ROWS:
                tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
                rows = []
        tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
        table = _with_changes(_without(pa.concat_tables(tables), replaced), changes)
        if number != self.number and pc.count_distinct(table["unit"]).as_py() != len(table):
            [(twice, _)] = Counter(table["unit"].to_pylist()).most_common(1)
            raise StoreError(f"log up to record {number}: {twice} is committed twice; {RESTORE}")
        last = frozenset(reopened), publications, tuple(forgets)
        return Manifest(number, table, fingerprint, *last)

    def _parts(self, rows: list[dict[str, Any]]) -> list[Part]:
        with damage_refused(f"manifest up to record {self.number}", "parts", _DELETE):
            return _PARTS.validate_python(rows)

    def _unit_record(self, row: dict[str, Any]) -> UnitRecord:
        where = f"manifest up to record {self.number}"
        with damage_refused(where, "the record of a unit", _DELETE):
            nested = {
                "counts": {name: row[name] for name in _COUNTS},
                "reasons": {entry["reason"]: entry["count"] for entry in row["reasons"]},
                "dropped": {entry["rule"]: entry["count"] for entry in row["dropped"]},
                "timings": {entry["stage"]: entry["seconds"] for entry in row["timings"]},
                "statistics": from_json(dict[str, BucketStatistics], row["statistics"]),
            }
            return _UNIT.validate_python(row | nested)


def read_manifest(store: Store, number: int | None = None) -> Manifest:
    """Return all that is committed: a checkpoint and the log's records after it.

    Args:
        store: the dataset's root.
        number: number of the log's last record to read; None reads to the end.

    Raises:
        ConfigError: the log does not have that record, or is of another format version.
        StoreError: the log has a gap, or a record is damaged.
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

    A damaged checkpoint is ignored with a warning.

    Args:
        store: the dataset's root.
        up_to: largest number of a checkpoint to take; None takes any.
        columns: names of the columns to read, the others are null; None reads all. The statistics
            of a million units alone take some hundred MB.
    """
    for number in reversed(numbers_in(store, "manifest", ".parquet")):
        if up_to is None or number <= up_to:
            try:
                return load_checkpoint(store, number, columns)
            except DamagedFile as error:
                _warn_once(f"{error}; it is ignored, because the log holds all that it says")
    return Manifest(0, _SCHEMA.empty_table())


def load_checkpoint(store: Store, number: int, columns: list[str] | None = None) -> Manifest:
    """Return the checkpoint of the log up to a record.

    Args:
        store: the dataset's root.
        number: number of the record.
        columns: as in `read_checkpoint`.

    Raises:
        ConfigError: it is of another format version.
        DamagedFile: it is missing or damaged.
        StoreError: the store refuses.
    """
    path = manifest_path(number)
    with open_parquet(store, path) as parquet:
        schema = parquet.schema_arrow
        found = (schema.metadata or {}).get(b"vidtok", b"")
        head = parse_versioned(_Head, found, store.locate(path), "a manifest", "delete it")
        if head.number != number or not schema.equals(_SCHEMA):
            raise pa.ArrowInvalid(f"not a manifest of the log up to record {number}")
        groups = range(parquet.num_row_groups)
        empty = schema.empty_table().select(columns or schema.names)
        table = pa.concat_tables([empty, *(read_group(parquet, n, columns) for n in groups)])
        _require_values(table)
    for field in _SCHEMA:
        if field.name not in table.column_names:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    table = table.select(_SCHEMA.names).cast(_SCHEMA)
    reopened = frozenset(head.reopened)
    return Manifest(number, table, head.fingerprint, reopened, head.publications, head.forgets)


def _require_values(table: pa.Table) -> None:
    """Refuse a table that lacks values, or has counts whose sum could overflow."""
    for name, column in zip(table.column_names, table.columns, strict=True):
        nulls = 0 if name == "quarantine" else column.null_count
        if pa.types.is_list(column.type):
            nulls += pc.list_flatten(column).null_count
        counts = pc.min_max(column).as_py() if name in _COUNTS and len(column) else {}
        if nulls or not all(0 <= count <= MOST for count in counts.values()):
            raise pa.ArrowInvalid(f"column {name}: values are missing or out of bounds")


@cache
def _warn_once(text: str) -> None:
    _log.warning(text)


def write_manifest(store: Store) -> Manifest:
    """Write a checkpoint of the log if it has records after the newest one; return the manifest."""
    checkpoint = read_checkpoint(store)
    manifest = checkpoint.extended(read_records(store, checkpoint.number))
    if manifest.number == checkpoint.number:
        return manifest
    head = _Head(
        number=manifest.number,
        fingerprint=manifest.fingerprint,
        reopened=tuple(sorted(manifest.reopened)),
        publications=manifest.publications,
        forgets=manifest.forgets,
    )
    table = manifest.table.replace_schema_metadata({"vidtok": to_json(head)})
    with store.stage("manifest") as staged:
        with parquet_writer(staged.file, table.schema, compression="zstd") as writer:
            writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
        seal(staged.file)
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


def _changes(now: PartsMoved | RowsForgotten, log_number: int) -> dict[str, Any]:
    """Return the new values of a unit's row, by column."""
    values: dict[str, Any] = {"log_number": log_number, "parts": list(map(asdict, now.parts))}
    if isinstance(now, RowsForgotten):
        quarantine = None if now.quarantine is None else asdict(now.quarantine)
        values |= {"quarantine": quarantine, "reasons": _reasons(now.reasons), **asdict(now.counts)}
    return values


def _with_changes(table: pa.Table, changes: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """Return the table with other values for units that a record changed."""
    if not changes:
        return table
    names = table["unit"].to_pylist()
    rows = {name: n for n, name in enumerate(names) if name in changes}
    if len(rows) != len(changes):
        unknown = min(changes.keys() - set(names))
        raise StoreError(
            f"log record {changes[unknown]['log_number']}: changes rows of {unknown}, which is not"
            " committed; restore the log from a copy"
        )
    for name in set().union(*changes.values()):
        field = _SCHEMA.field(name)
        changed = {rows[unit]: values[name] for unit, values in changes.items() if name in values}
        order = list(range(len(names)))
        for place, n in enumerate(changed):
            order[n] = len(names) + place
        chunks = [*table[name].chunks, pa.array(list(changed.values()), field.type)]
        column = pa.chunked_array(chunks, field.type).take(pa.array(order))
        table = table.set_column(table.schema.get_field_index(name), field, column)
    return table


def _reasons(reasons: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"reason": reason, "count": count} for reason, count in sorted(reasons.items())]


def _row(unit: UnitRecord, log_number: int) -> dict[str, Any]:
    return {
        **_UNIT.dump_python(unit, include={"unit", "sources", "parts", "quarantine"}),
        **asdict(unit.counts),
        "log_number": log_number,
        "reasons": _reasons(unit.reasons),
        "dropped": [{"rule": r, "count": c} for r, c in sorted(unit.dropped.items())],
        "timings": [{"stage": s, "seconds": v} for s, v in sorted(unit.timings.items())],
        "statistics": to_json(unit.statistics).decode(),
    }
