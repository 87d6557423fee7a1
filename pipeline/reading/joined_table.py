"""A Parquet table of somebody else, whose columns are joined to the clips of a dataset.

It is read whole and stays in memory: it is meant for scores and labels, not for cells.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.dataset.parquet_file import UNREADABLE
from pipeline.dataset.part_reader import rows_of
from pipeline.errors import ConfigError, one_line
from pipeline.formatting import counted
from pipeline.reading.committed_rows import CommittedRows
from pipeline.reading.matching import Numbers, index_in, read_texts, rows_by_unit
from pipeline.storage.files import FileRefused, read_file


@dataclass(frozen=True, slots=True)
class JoinedTable:
    """A table with one row for each clip, or for each sample."""

    uri: str
    """URI of the file."""
    on: str
    """Name of the column that names clips or samples."""
    names: pa.Array
    """Values of that column; none occurs twice."""
    values: pa.Table
    """The other columns."""
    fingerprint: str
    """Hash of the file."""

    def match(self, snapshot: CommittedRows) -> dict[str, Numbers]:
        """Return the number of the table's row for each row of a dataset, by bucket.

        Raises:
            ConfigError: samples of several units have one key.
            StoreError: a part cannot be read.
        """
        found = {}
        units: dict[str, int] = {}
        owner = np.full(len(self.names), -1)
        for bucket, rows in snapshot.buckets.items():
            files = read_texts(snapshot, bucket, self.on)
            parts = snapshot.parts(bucket)
            texts = [rows_of(part, files[part.path]) for part in parts]
            found[bucket] = index_in(pa.chunked_array(texts), self.names)
            unit_of = np.empty(rows, np.int64)
            for unit, shares in rows_by_unit(snapshot, bucket).items():
                unit_of[shares.numbers] = units.setdefault(unit, len(units))
            known, of_unit = found[bucket], unit_of
            known, of_unit = known[known >= 0], of_unit[known >= 0]
            first = owner[known] < 0
            owner[known[first]] = of_unit[first]
            if len(twice := known[owner[known] != of_unit]):
                raise ConfigError(
                    f"{self.uri}: samples of several units have the key"
                    f" {self.names[int(twice[0])].as_py()!r}: use a table of clips"
                    " and join on clip_id"
                )
        return found

    def typed(self, names: Sequence[str], *, gaps: bool) -> dict[str, pa.Array]:
        """Return columns as batches have them.

        Args:
            names: names of the columns.
            gaps: whether there are clips without a row, so that integers become floats with NaN.

        Raises:
            ConfigError: an integer does not fit the type.
        """
        columns = {}
        for name in names:
            column = self.values[name]
            kind = column.type
            if pa.types.is_floating(kind) or (
                pa.types.is_integer(kind) and (gaps or column.null_count)
            ):
                kind = pa.float64()
            elif pa.types.is_integer(kind):
                kind = pa.int64()
            try:
                columns[name] = column.cast(kind).combine_chunks()
            except pa.ArrowInvalid as error:
                why = ", as some clips have no value" if kind == pa.float64() else ""
                raise ConfigError(
                    f"{self.uri}: column {name}: does not fit {kind}{why}: {one_line(error)};"
                    " store it as text"
                ) from error
        return columns


def read_joined_table(uri: str, on: str, storage_options: Mapping[str, Any]) -> JoinedTable:
    """Read a table.

    Args:
        uri: a local path, or any URI that fsspec opens.
        on: name of the column that names clips (`clip_id`) or samples (`key`).
        storage_options: passed to fsspec.

    Raises:
        ConfigError: there is no such file, it is not a Parquet file, it lacks the column, or the
            column holds something else than texts, or a text twice.
        StoreError: the store refuses.
    """
    if on not in ("clip_id", "key"):
        raise ConfigError(f"join: on = {on!r}: must be clip_id or key")
    try:
        data = read_file(uri, storage_options)
    except FileNotFoundError as error:
        raise ConfigError(f"{uri}: no such file") from error
    except FileRefused as error:
        raise ConfigError(
            f"join: {error}; give a Parquet file, or pipeline.open(URI) for a dataset"
        ) from error
    try:
        table = pq.read_table(pa.BufferReader(data))
    except UNREADABLE as error:
        raise ConfigError(f"{uri}: not a Parquet table: {one_line(error)}") from error
    if on not in table.column_names:
        raise ConfigError(f"{uri}: no column {on}; columns: {', '.join(table.column_names)}")
    if not (pa.types.is_string(kind := table[on].type) or pa.types.is_large_string(kind)):
        raise ConfigError(f"{uri}: column {on} is {kind}: must be string")
    names = table[on].cast(pa.string()).combine_chunks()
    counts = pc.value_counts(names.drop_null())
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        example = twice.field("values")[0].as_py()
        raise ConfigError(
            f"{uri}: {counted(len(twice), 'value')} of {on} in more than one row, such as"
            f" {example!r}; keep one row of each"
        )
    digest = hashlib.sha256(data).hexdigest()[:32]
    return JoinedTable(uri, on, names, table.drop_columns([on]), digest)
