"""What to forget, as a person or a table names it."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.log.forgotten import key_digest, source_digest
from pipeline.dataset.parquet_file import UNREADABLE
from pipeline.errors import ConfigError, one_line
from pipeline.records import parse_range, range_name
from pipeline.storage.files import canonical_uri, portable, read_file

_COLUMNS: Final = ("key", "unit", "source")
_READERS: Final = (".parquet", ".csv", ".tsv", ".jsonl")


@dataclass(slots=True)
class Requests:
    """Keys and sources to forget."""

    named: dict[str, str] = field(default_factory=dict)
    """Digest of each → what was named."""
    units: set[str] = field(default_factory=set)
    """Units that are named with a key."""
    sources: set[str] = field(default_factory=set)
    """Sources that are named, also ranges."""
    ranges: set[str] = field(default_factory=set)
    """Sources that are ranges of rows of a list."""
    everywhere: bool = False
    """Whether a key is to be forgotten in any unit."""

    def add_key(self, key: str, unit: str | None = None) -> None:
        """Add the key of a sample, in one unit or in any."""
        self.named[key_digest(key, unit)] = key if unit is None else f"{unit}/{key}"
        if unit is None:
            self.everywhere = True
        else:
            self.units.add(unit)

    def add_source(self, source: str) -> None:
        """Add a tar, a file, a list, or the range of rows of a unit, by its URI."""
        if (found := parse_range(source)) is not None:
            uri, start, stop = found
            source = range_name(portable(canonical_uri(uri)), start, stop)
            self.ranges.add(source)
        else:
            source = portable(canonical_uri(source))
        self.sources.add(source)
        self.named[source_digest(source)] = source


def read_requests(
    keys: Iterable[str], sources: Iterable[str], table: str | None = None
) -> Requests:
    """Return what to forget.

    Args:
        keys: keys of samples, in any unit.
        sources: URIs of tars, files and lists.
        table: URI of a Parquet, CSV, TSV or JSON Lines file with the columns `key` and `unit`, or
            `source`; a row names a key, a key in a unit, or a source.

    Raises:
        ConfigError: nothing is named, or the table cannot be read or names something else.
        StoreError: the store of the table refuses.
    """
    requests = Requests()
    for name in keys:
        requests.add_key(name)
    for uri in sources:
        requests.add_source(uri)
    for n, row in enumerate(_rows(table) if table is not None else ()):
        key, unit, source = (row.get(name) or None for name in _COLUMNS)
        wrong = [name for name in _COLUMNS if not isinstance(row.get(name), str | None)]
        if wrong or (key is None) == (source is None) or (unit is not None and key is None):
            raise ConfigError(
                f"--from {table}: row {n}: must name a key, a key and a unit, or a source, as text"
            )
        if source is not None:
            requests.add_source(source)
        elif key is not None:
            requests.add_key(key, unit)
    if not requests.named:
        raise ConfigError("forget: no sample is named; give --key, --source or --from")
    return requests


def _rows(uri: str) -> Iterator[Mapping[str, Any]]:
    if not uri.endswith(_READERS):
        raise ConfigError(f"--from {uri}: must end in {', '.join(_READERS)}")
    try:
        data = read_file(uri, {})
    except FileNotFoundError as error:
        raise ConfigError(f"--from {uri}: no such file") from error
    try:
        rows = list(_parsed(uri, data))
    except (*UNREADABLE, csv.Error, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"--from {uri}: cannot be read: {one_line(error)}") from error
    if not rows:
        raise ConfigError(f"--from {uri}: has no rows, so it names no sample")
    if not any({"key", "source"} & row.keys() for row in rows):
        raise ConfigError(f"--from {uri}: has no column key or source")
    return iter(rows)


def _parsed(uri: str, data: bytes) -> Sequence[Mapping[str, Any]]:
    rows: list[dict[str, Any]]
    if uri.endswith(".parquet"):
        table = pq.read_table(pa.BufferReader(data))
        rows = table.select([name for name in _COLUMNS if name in table.column_names]).to_pylist()
        return rows
    text = data.decode("utf-8-sig")
    if uri.endswith(".jsonl"):
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line is not a JSON object")
        return rows
    return list(csv.DictReader(io.StringIO(text), delimiter="\t" if uri.endswith(".tsv") else ","))
