"""Reads parts and quarantine tables, and decides which of their rows belong to a unit."""

import hashlib
import tempfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.parquet_file import UNREADABLE, parquet_reader, read_group
from pipeline.dataset.records import Part
from pipeline.dataset.schema import (
    QUARANTINE_SCHEMA,
    clip_schema,
    side_columns,
    tokenizer_columns,
)
from pipeline.errors import DamagedFile, PipelineError, one_line
from pipeline.storage.files import is_local
from pipeline.storage.store import Store


@contextmanager
def open_parquet(
    store: Store,
    path: str,
    *,
    num_bytes: int | None = None,
    footer: pq.FileMetaData | None = None,
) -> Iterator[pq.ParquetFile]:
    """Open a file of the dataset; see `pipeline.dataset.parquet_file.parquet_reader`.

    Raises:
        DamagedFile: the file is missing or damaged, which may show only while it is read.
        StoreError: the store refuses.
    """
    with _sound(store, path), store.open_ranges(path, num_bytes) as file:
        parquet = parquet_reader(file, footer)
        if footer is None:
            _require_columns(parquet.schema_arrow, path, store.locate(path))
        yield parquet


def _require_columns(schema: pa.Schema, path: str, where: str) -> None:
    """Refuse a part whose columns are not those that it describes, and a strange quarantine."""
    wanted = schema
    if path.startswith("data/"):
        wanted = clip_schema(tokenizer_columns(schema, where), side_columns(schema, where))
    elif path.startswith("quarantine/"):
        wanted = QUARANTINE_SCHEMA
    if not schema.equals(wanted):
        raise pa.ArrowInvalid("its columns are not those of the format")


@contextmanager
def _sound(store: Store, path: str) -> Iterator[None]:
    """Raise `DamagedFile` for a file that is missing or damaged."""
    where = store.locate(path)
    try:
        yield
    except PipelineError:
        raise
    except FileNotFoundError as error:
        raise DamagedFile(
            f"{where}: missing; if its unit was done again, or samples were forgotten, vacuum may"
            " have deleted it: open a newer version, or run `python -m pipeline verify`"
        ) from error
    except UNREADABLE as error:
        text = f"{where}: {one_line(error)}; run `python -m pipeline verify`"
        raise DamagedFile(text) from error


@dataclass(frozen=True, slots=True)
class GroupRows:
    """Rows of one row group that belong to a part of a unit."""

    group: int
    """Number of the row group in the file."""
    first: int
    """First of the rows, counted from the start of the row group."""
    rows: int
    """Number of rows."""

    def of(self, table: pa.Table) -> pa.Table:
        """Return these rows of the whole row group."""
        return table.slice(self.first, self.rows)


def rows_by_group(footer: pq.FileMetaData, part: Part) -> list[GroupRows]:
    """Return which rows of which row groups belong to a part, in order.

    A row group occurs more than once if rows between those of the part were forgotten.

    Args:
        footer: metadata of the part's file.
        part: the part as the unit's record names it. Without a place all rows belong to it.

    Raises:
        pyarrow.ArrowInvalid: the file does not have the rows that the record says.
    """
    recorded = part.place.of_rows if part.place else part.rows
    sizes = (footer.row_group(group).num_rows for group in range(footer.num_row_groups))
    ends = list(accumulate(sizes))
    found = []
    for first, end in part.spans:
        group = bisect_right(ends, first)
        while first < end and group < len(ends):
            start = ends[group - 1] if group else 0
            stop = min(ends[group], end)
            found.append(GroupRows(group, first - start, stop - first))
            first, group = stop, group + 1
    bounds = [bound for span in part.spans for bound in span]
    total = sum(rows.rows for rows in found)
    if (footer.num_rows, total, sorted(bounds)) != (recorded, part.rows, bounds):
        raise pa.ArrowInvalid(f"{footer.num_rows} rows, recorded {recorded}")
    return found


def rows_of(part: Part, column: pa.Array) -> pa.Array:
    """Return the rows of a part of a column of its whole file."""
    return pa.concat_arrays(
        [column.slice(0, 0), *(column.slice(first, end - first) for first, end in part.spans)]
    )


def locate_row(groups: Sequence[GroupRows], n: int) -> tuple[int, int]:
    """Return the index of the row group that holds row n of a part, and the row in `GroupRows`.

    Args:
        groups: row groups of the part, from `rows_by_group`.
        n: number of the row among those of the part, from 0.
    """
    ends = list(accumulate(each.rows for each in groups))
    index = bisect_right(ends, n)
    return index, n - (ends[index] - groups[index].rows)


def unit_rows(
    parquet: pq.ParquetFile, part: Part, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of an open file that belong to a part, one row group at a time.

    Args:
        parquet: the file.
        part: the part as the unit's record names it. Without a place all rows belong to it.
        columns: names of the columns to read; None reads all.
    """
    for group, runs in groupby(rows_by_group(parquet.metadata, part), lambda rows: rows.group):
        table = read_group(parquet, group, columns)
        yield pa.concat_tables([rows.of(table) for rows in runs])


def part_rows(store: Store, part: Part, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a part or quarantine table, one row group at a time.

    Args:
        store: the dataset's root.
        part: the part as the unit's record names it.
        columns: names of the columns to read; None reads all.

    Raises:
        DamagedFile: the file is missing or damaged.
        StoreError: the store refuses.
    """
    with open_parquet(store, part.path, num_bytes=part.bytes) as parquet:
        yield from unit_rows(parquet, part, columns)


_CHUNK: Final = 8 << 20


@contextmanager
def fetched(store: Store, path: str) -> Iterator[tuple[pa.NativeFile, str]]:
    """Open a file with the SHA-256 of its content; a remote file is copied to a local disk once."""
    digest = hashlib.sha256()
    local = is_local(store.uri)
    with store.open(path) as source, tempfile.NamedTemporaryFile() as copy:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            if not local:
                copy.write(chunk)
        copy.flush()
        with store.open_ranges(path) if local else pa.OSFile(copy.name) as file:
            yield file, digest.hexdigest()
