"""The manifest: what is committed, as one table with a row per unit; the only way into a dataset.

`manifest/<n>.parquet` is a checkpoint of the log up to record n: whoever opens the dataset reads
the newest one and the few records after it, instead of the whole log. It holds nothing that the
log does not, and follows from it alone: two writers of one number write the same table.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice, takewhile
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dataset.log_records import MERGE_VERSION, LogRecord, numbers_in, read_records
from pipeline.dataset.records import Counts, Part, Reopened, RowSpan, UnitRecord
from pipeline.dataset.schema import FORMAT_VERSION
from pipeline.dataset.statistics import BucketStatistics
from pipeline.errors import ConfigError, StoreError
from pipeline.records import from_json, to_json
from pipeline.storage.store import Store

STATISTICS_VERSION: Final = 4
"""Of manifests with a column of statistics, which older readers do not expect."""


_PART: Final = pa.struct(
    [
        pa.field("path", pa.string()),
        pa.field("bucket", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
    ]
)


_PART_NAMES: Final = tuple(field.name for field in _PART)


_STATISTICS: Final = "statistics"


_COUNTS: Final = tuple(field.name for field in fields(Counts))


_FIELDS: Final = (
    pa.field("unit", pa.string()),
    pa.field("log_number", pa.int64()),
    pa.field("sources", pa.list_(pa.string())),
    pa.field("parts", pa.list_(_PART)),
    pa.field("places", pa.list_(pa.struct([("first_row", pa.int64()), ("of_rows", pa.int64())]))),
    pa.field("quarantine", _PART),
    *(pa.field(name, pa.int64()) for name in _COUNTS),
    pa.field("reasons", pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int64())]))),
    pa.field("timings", pa.list_(pa.struct([("stage", pa.string()), ("seconds", pa.float64())]))),
    pa.field(_STATISTICS, pa.string()),
)


_SCHEMA: Final = pa.schema(_FIELDS)


_PLACES: Final = "places"


_ROW_GROUP_ROWS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Manifest:
    """All committed units up to one number of the log."""

    number: int
    table: pa.Table
    """One row per unit, in the order of commits: unit, log_number (of the record that its parts
    stand in), sources, parts, places (of the parts, each null unless merged; null if all are),
    quarantine, one column for each of `Counts`, reasons, timings, statistics (JSON, or null)."""

    fingerprint: str | None = None
    """Of the dataset; None while nothing is committed."""

    reopened: frozenset[str] = frozenset()
    """Units that are to be done again; until then they count as they are."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def parts(self, bucket: str | None = None) -> list[Part]:
        """Return the parts of all units, or of one bucket, in the order of commits."""
        if _has(self.table, _PLACES):
            parts = [part for unit in self.units() for part in unit.parts]
            return [part for part in parts if bucket in (None, part.bucket)]
        flat = pc.list_flatten(self.table["parts"]).combine_chunks()
        if bucket is not None:
            flat = flat.filter(pc.equal(pc.struct_field(flat, "bucket"), bucket))
        return [Part(**row) for row in flat.to_pylist()]

    def quarantine_parts(self) -> list[Part]:
        """Return the quarantine tables of all units that have one."""
        return [Part(**row) for row in self.table["quarantine"].drop_null().to_pylist()]

    def counts(self) -> Counts:
        """Return the sum over all units."""
        return Counts(**{name: pc.sum(self.table[name]).as_py() or 0 for name in _COUNTS})

    def reasons(self) -> dict[str, int]:
        """Return how often each quarantine reason occurs, by reason."""
        total: Counter[str] = Counter()
        for row in pc.list_flatten(self.table["reasons"]).to_pylist():
            total[row["reason"]] += row["count"]
        return dict(sorted(total.items()))

    def units(self) -> Iterator[UnitRecord]:
        """Yield every unit as its record, a batch of rows in memory at a time."""
        for batch in self.table.to_batches(max_chunksize=_ROW_GROUP_ROWS):
            for row in batch.to_pylist():
                yield _unit_record(row)

    def unit(self, name: str) -> UnitRecord | None:
        """Return the record of one unit, None if it is not committed."""
        rows = self.table.filter(pc.equal(self.table["unit"], name)).to_pylist()
        return _unit_record(rows[0]) if rows else None

    def reopened_units(self) -> list[Reopened]:
        """Return the units that are to be done again, with their sources."""
        rows = self.table.filter(
            pc.is_in(self.table["unit"], pa.array(sorted(self.reopened), pa.string()))
        )
        names, sources = rows["unit"].to_pylist(), rows["sources"].to_pylist()
        return [Reopened(unit=n, sources=tuple(s)) for n, s in zip(names, sources, strict=True)]

    def extended(self, records: Iterable[LogRecord]) -> "Manifest":
        """Return the manifest with the log's next records; a unit that was done again replaces.

        Raises:
            StoreError: the records do not follow on, commit a unit a second time, or move one that
                is not committed.
            ConfigError: a record is of another fingerprint.
        """
        number, fingerprint, reopened = self.number, self.fingerprint, set(self.reopened)
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
            for unit in record.units:
                moved.pop(unit.unit, None)  # what was moved is what was replaced
            moved.update((unit.unit, (number, unit.parts)) for unit in record.moved)
            if len(rows) >= _ROW_GROUP_ROWS:
                tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
                rows = []
        tables.append(pa.Table.from_pylist(rows, schema=_SCHEMA))
        table = _with_moved(_without(pa.concat_tables(tables), replaced), moved)
        if number != self.number and pc.count_distinct(table["unit"]).as_py() != len(table):
            raise StoreError(f"log up to record {number}: a unit is committed twice")
        return Manifest(number, table, fingerprint, frozenset(reopened))


def read_manifest(store: Store, number: int | None = None) -> Manifest:
    """Return all that is committed: a checkpoint and the log's records after it.

    Args:
        store: the dataset's root.
        number: of the log's record at which to stop; None goes on to its end.

    Raises:
        ConfigError: the log does not have that record.
        StoreError: the log has a hole, or a checkpoint or record is damaged.
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
    """Return what was committed when the log ended at a record or ends now, from the log alone.

    Raises:
        StoreError: the log has a hole, or a record is damaged.
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
        up_to: number above which none is taken.
        columns: to read, the others are null; None reads all. Of a million units the statistics
            alone are some hundred MB.
    """
    numbers = numbers_in(store, "manifest", ".parquet")
    if up_to is not None:
        numbers = [number for number in numbers if number <= up_to]
    if not numbers:
        return Manifest(0, _SCHEMA.empty_table())
    path = manifest_path(numbers[-1])
    with store.open(path) as file:
        try:
            table = pq.read_table(file, columns=columns)
        except pa.ArrowInvalid as error:
            raise StoreError(
                f"{store.locate(path)}: {error}; delete it: the log holds all it says"
            ) from error
    head = json.loads(table.schema.metadata[b"vidtok"])
    if head["format_version"] > STATISTICS_VERSION:
        raise ConfigError(
            f"{store.locate(path)}: format version {head['format_version']}: this release reads up"
            f" to {STATISTICS_VERSION}; install a newer one"
        )
    for at, field in enumerate(_SCHEMA):
        if field.name not in table.column_names:
            table = table.add_column(at, field, pa.nulls(len(table), field.type))
    reopened = frozenset(head.get("reopened", ()))
    return Manifest(head["number"], table.cast(_SCHEMA), head["fingerprint"], reopened)


def write_manifest(store: Store) -> Manifest:
    """Write a checkpoint of the log as it stands, if there is anything new, and return it."""
    checkpoint = read_checkpoint(store)
    manifest = checkpoint.extended(read_records(store, checkpoint.number))
    if manifest.number == checkpoint.number:
        return manifest
    unused = [name for name in (_PLACES, _STATISTICS) if not _has(manifest.table, name)]
    version = FORMAT_VERSION if _PLACES in unused else MERGE_VERSION
    if _STATISTICS not in unused:
        version = STATISTICS_VERSION
    head = {
        "format_version": version,
        "number": manifest.number,
        "fingerprint": manifest.fingerprint,
        "reopened": sorted(manifest.reopened),
    }
    table = manifest.table.drop_columns(unused)
    table = table.replace_schema_metadata({"vidtok": json.dumps(head)})
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
    now = [_parts_row(moved[names[n]][1], moved[names[n]][0]) for n in changed]
    for name in ("log_number", "parts", _PLACES):
        field = _SCHEMA.field(name)
        values = pa.array([row[name] for row in now], field.type)
        column = pa.chunked_array([*table[name].chunks, values], field.type).take(pa.array(order))
        table = table.set_column(table.schema.get_field_index(name), field, column)
    return table


def _has(table: pa.Table, name: str) -> bool:
    return bool(table[name].null_count < len(table))


def _parts_row(parts: Sequence[Part], log_number: int) -> dict[str, Any]:
    """Return the columns that change when rows are moved."""
    places = [part.place and asdict(part.place) for part in parts]
    return {
        "log_number": log_number,
        "parts": [{name: getattr(part, name) for name in _PART_NAMES} for part in parts],
        _PLACES: places if any(places) else None,
    }


def _row(unit: UnitRecord, log_number: int) -> dict[str, Any]:
    return {
        "unit": unit.unit,
        "sources": unit.sources,
        **_parts_row(unit.parts, log_number),
        "quarantine": asdict(unit.quarantine) if unit.quarantine else None,
        **asdict(unit.counts),
        "reasons": [{"reason": r, "count": c} for r, c in sorted(unit.reasons.items())],
        "timings": [{"stage": s, "seconds": v} for s, v in sorted(unit.timings.items())],
        _STATISTICS: None if unit.statistics is None else to_json(unit.statistics).decode(),
    }


def _unit_record(row: dict[str, Any]) -> UnitRecord:
    places = row[_PLACES] or [None] * len(row["parts"])
    text = row[_STATISTICS]
    return UnitRecord(
        unit=row["unit"],
        sources=tuple(row["sources"]),
        parts=tuple(
            Part(**part, place=place and RowSpan(**place))
            for part, place in zip(row["parts"], places, strict=True)
        ),
        quarantine=Part(**row["quarantine"]) if row["quarantine"] else None,
        counts=Counts(**{name: row[name] for name in _COUNTS}),
        reasons={entry["reason"]: entry["count"] for entry in row["reasons"]},
        timings={entry["stage"]: entry["seconds"] for entry in row["timings"]},
        statistics=None if text is None else from_json(dict[str, BucketStatistics], text),
    )
