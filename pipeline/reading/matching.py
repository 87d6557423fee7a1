"""Finds the rows of two datasets that are of one clip, and counts those that only one has.

Rows are compared unit by unit and bucket by bucket, by `clip_id`. Nothing else is relied on: the
rows of a unit can be in other parts, merged parts and row groups on each side, and in another
order. A row is named by its number in its bucket, in the order of the snapshot's parts.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dataset.part_reader import open_parquet, rows_of
from pipeline.dataset.records import Part, state_of
from pipeline.errors import StoreError
from pipeline.formatting import counted
from pipeline.reading.committed_rows import CommittedRows

_FILES_AT_ONCE: Final = 8


Value = TypeVar("Value")


Numbers = NDArray[np.int64]
"""Numbers of rows; -1 where there is no row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What only one side of a join has."""

    other: str
    """URI of the other dataset or table."""
    clips_here: int
    """Number of clips for which the other side has no row."""
    clips_there: int
    """Number of rows of the other side that belong to no clip here."""
    units_here: int = 0
    """Number of units that have rows, and none on the other side."""
    units_there: int = 0
    """Number of units that have rows on the other side alone."""
    units_stale: int = 0
    """Number of units that were done again after one side was made from them."""

    @property
    def anything(self) -> bool:
        """Whether one side has something that the other lacks."""
        return bool(self.clips_here or self.clips_there)

    def __str__(self) -> str:
        here, there = (
            counted(rows, noun) + (f" ({counted(units, 'whole unit')})" if units else "")
            for rows, noun, units in (
                (self.clips_here, "clip", self.units_here),
                (self.clips_there, "row", self.units_there),
            )
        )
        text = f"{here} without a row in {self.other}; {there} of it without a clip"
        if self.units_stale:
            units = counted(self.units_stale, "unit was", "units were")
            text += f"; {units} done again since embeddings were made from them: run `embed` again"
        return text


@dataclass(frozen=True, slots=True)
class Share:
    """The rows of a unit in one file."""

    part: Part
    """The rows."""
    first: int
    """Number of the first of them in the bucket."""

    def of(self, column: pa.Array) -> pa.Array:
        """Return these rows of a column of the file."""
        return rows_of(self.part, column)

    @property
    def numbers(self) -> Numbers:
        """Numbers of the rows in the bucket."""
        return np.arange(self.first, self.first + self.part.rows)


@dataclass(slots=True)
class UnitRows:
    """The rows of a unit in one bucket."""

    shares: list[Share] = field(default_factory=list)
    """Where they are, in their order."""

    def of(self, files: dict[str, pa.Array]) -> pa.Array:
        """Return these rows of a column, from the column of each file."""
        return pa.concat_arrays([share.of(files[share.part.path]) for share in self.shares])

    @property
    def numbers(self) -> Numbers:
        """Numbers of the rows in the bucket."""
        return np.concatenate([share.numbers for share in self.shares])


def units_with_rows(snapshot: CommittedRows) -> set[str]:
    """Return the units that have rows."""
    table = snapshot.manifest.table
    return set(
        table.filter(pc.greater(pc.list_value_length(table["parts"]), 0))["unit"].to_pylist()
    )


def stale_units(one: CommittedRows, other: CommittedRows) -> set[str]:
    """Return the units that were done again in a parent after one of two datasets was made from it.

    One of them can be the parent itself. Their ids can be equal although their captions are not.
    """
    lineages = [{each.fingerprint, each.dataset.identity.get("from")} for each in (one, other)]
    stale: set[str] = set()
    for parent in lineages[0] & lineages[1]:
        if parent is not None and not parent == one.fingerprint == other.fingerprint:
            ours, theirs = (_states(each, parent) for each in (one, other))
            stale |= {unit for unit in ours.keys() & theirs.keys() if ours[unit] != theirs[unit]}
    return stale


def _states(snapshot: CommittedRows, parent: str) -> dict[str, list[str]]:
    """Return the states of a parent's units that a dataset, or the parent itself, has rows of."""
    if snapshot.fingerprint == parent:
        return {record.unit: [state_of(record)] for record in snapshot.manifest.units()}
    table = snapshot.manifest.table
    return dict(zip(table["unit"].to_pylist(), table["sources"].to_pylist(), strict=True))


def rows_by_unit(snapshot: CommittedRows, bucket: str) -> dict[str, UnitRows]:
    """Return the rows of each unit that has rows in a bucket."""
    runs: dict[str, list[tuple[int, int]]] = {}
    number = 0
    for part in snapshot.parts(bucket):
        runs.setdefault(part.path, []).append((part.first_row, number))
        number += part.rows
    table = snapshot.manifest.table
    owners = pc.list_parent_indices(table["parts"].combine_chunks())
    names = table["unit"].take(owners).to_pylist()
    units: dict[str, UnitRows] = {}
    for unit, part in zip(names, snapshot.manifest.parts(), strict=True):
        if part.bucket == bucket and part.rows:
            known = runs[part.path]
            start, number = known[bisect_right(known, (part.first_row, inf)) - 1]
            share = Share(part, number + part.first_row - start)
            units.setdefault(unit, UnitRows()).shares.append(share)
    return units


def read_files(
    snapshot: CommittedRows,
    bucket: str,
    columns: Sequence[str],
    of: Callable[[pa.Table], Value],
) -> dict[str, Value]:
    """Return a value of some columns of each file of a bucket, by path.

    Args:
        snapshot: the dataset.
        bucket: name of the bucket.
        columns: names of the columns, none of which has nulls.
        of: function that returns the value of a file's table.

    Raises:
        StoreError: a part cannot be read.
    """
    parts = {part.path: part for part in snapshot.parts(bucket)}

    def read(part: Part) -> Value:
        with open_parquet(snapshot.store, part.path, num_bytes=part.bytes) as parquet:
            groups = list(range(parquet.num_row_groups))
            table = parquet.read_row_groups(groups, columns, use_threads=False)
            for name in columns:
                if len(table) != parquet.metadata.num_rows or table[name].null_count:
                    raise pa.ArrowInvalid(f"column {name}: values are missing")
            return of(table)

    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        return dict(zip(parts, threads.map(read, parts.values()), strict=True))


def read_texts(snapshot: CommittedRows, bucket: str, column: str) -> dict[str, pa.Array]:
    """Return the values of a text column in all files of a bucket, by path; as `read_files`."""
    return read_files(snapshot, bucket, [column], lambda table: table[column].combine_chunks())


def read_numbers(
    snapshot: CommittedRows,
    bucket: str,
    columns: Sequence[str],
    of: Callable[[pa.Table], NDArray[Any]],
) -> NDArray[Any]:
    """Return a number, or several, of each row of a bucket, in the order of the snapshot's parts.

    A file's columns are in memory only while `of` makes its numbers. Arguments and errors are those
    of `read_files`; `of` returns an array [rows, …].
    """
    files = read_files(snapshot, bucket, columns, of)
    return np.concatenate(
        [
            files[part.path][first:stop]
            for part in snapshot.parts(bucket)
            for first, stop in part.spans
        ]
    )


def match(here: CommittedRows, there: CommittedRows, bucket: str, leave_out: Set[str]) -> Numbers:
    """Return the number of the row in `there` of each row in `here` of a bucket.

    Rows of the units `leave_out` have none. This holds the ids of both sides in memory: about 60
    bytes for each row.

    Raises:
        StoreError: a part cannot be read, or two of its rows have one `clip_id`.
    """
    rows = sum(part.rows for part in here.parts(bucket))
    found = np.full(rows, -1)
    ours, theirs = (rows_by_unit(snapshot, bucket) for snapshot in (here, there))
    if common := (ours.keys() & theirs.keys()) - leave_out:
        our_ids, their_ids = (read_texts(snapshot, bucket, "clip_id") for snapshot in (here, there))
        for unit in common:
            found[ours[unit].numbers] = _match_unit(
                ours[unit].of(our_ids), theirs[unit].of(their_ids), theirs[unit].numbers
            )
    matched = found[found >= 0]
    if len(np.unique(matched)) != len(matched):
        where = f"{here.store.uri} or {there.store.uri}"
        raise StoreError(
            f"{where}: two rows of a unit have one clip_id; run `python -m pipeline verify`"
        )
    return found


def _match_unit(ours: pa.Array, theirs: pa.Array, numbers: Numbers) -> Numbers:
    """Return the numbers of their rows with our ids."""
    if ours.equals(theirs):
        return numbers
    return np.where((at := index_in(ours, theirs)) < 0, -1, numbers[at])


def index_in(values: pa.Array | pa.ChunkedArray, known: pa.Array) -> Numbers:
    """Return the index of each value among the known ones; -1 for an unknown one."""
    found = pc.index_in(values, value_set=known).fill_null(-1)
    return np.asarray(found.to_numpy(), np.int64)
