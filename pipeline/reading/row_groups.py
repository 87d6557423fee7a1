"""Reads row groups of parts: only the columns asked for. Keeps the footers."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from itertools import groupby
from typing import Any, Final, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.parquet_file import read_group
from pipeline.dataset.part_reader import GroupRows, open_parquet, rows_by_group
from pipeline.dataset.records import Part
from pipeline.reading.columns import Columns, Rows, Shapes
from pipeline.storage.store import Store

_FOOTERS_KEPT: Final = 256
"""Number of parts whose footers are kept: each takes about 100 kB for 256 MiB of rows."""


class RowReader(Protocol):
    """Reads row groups of parts; threads may share one."""

    def of(self, part: Part) -> list[GroupRows]:
        """Return which rows of which row groups belong to a part."""
        ...

    def runs(self, part: Part) -> list[list[int]]:
        """Return the number of rows of each row group, in runs that a shuffle keeps together."""
        ...

    def read(self, part: Part, groups: Sequence[int]) -> Mapping[int, Any]:
        """Read row groups by their index in `of`; what it returns for each is for `batch`."""
        ...

    def batch(
        self, rows: Sequence[tuple[Any, int]], draws: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Return one batch of rows of one bucket, each given as row n of a row group.

        Args:
            rows: the rows.
            draws: random number of each row, which places its window; only with windows.
        """
        ...


class RowGroups:
    """Reads row groups of a dataset's parts.

    Args:
        store: the dataset's root.
        columns: what to read.
    """

    def __init__(self, store: Store, columns: Columns) -> None:
        self._store = store
        self._columns = columns
        self._shapes: dict[str, Shapes] = {}
        """Shapes of the cells by bucket: all clips of a bucket have the same."""
        self._footer = lru_cache(_FOOTERS_KEPT)(self._read_footer)
        self._groups = lru_cache(_FOOTERS_KEPT)(self._find_groups)

    def of(self, part: Part) -> list[GroupRows]:
        """Return which rows of which row groups belong to a part.

        Raises:
            StoreError: the part is missing or damaged, or the store refuses.
        """
        return self._groups(part)

    def sizes(self, part: Part) -> list[int]:
        """Return the number of rows of each row group that belong to a part; errors as `of`."""
        return [rows.rows for rows in self.of(part)]

    def runs(self, part: Part) -> list[list[int]]:
        """Return `sizes`, the rows of each row group as a run; errors as `of`."""
        groups = groupby(self.of(part), lambda rows: rows.group)
        return [[rows.rows for rows in run] for _, run in groups]

    def read(self, part: Part, groups: Sequence[int]) -> dict[int, Rows]:
        """Read row groups by their index in `of`, in one go; errors as `of`."""
        footer, known = self._footer(part), self.of(part)
        with self._open(part, footer) as parquet:
            read = lru_cache(1)(partial(self._read_group, parquet, part.bucket))
            return {n: self._rows(part.bucket, known[n], read(known[n].group)) for n in groups}

    def batch(
        self, rows: Sequence[tuple[Rows, int]], draws: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Return one batch; see `Columns.batch`."""
        return self._columns.batch(rows, draws)

    def __reduce__(self) -> tuple[type["RowGroups"], tuple[Store, Columns]]:
        """Go to another process without what is kept here."""
        return RowGroups, (self._store, self._columns)

    def _find_groups(self, part: Part) -> list[GroupRows]:
        return rows_by_group(self._footer(part), part)

    def _read_group(self, parquet: pq.ParquetFile, bucket: str, group: int) -> pa.Table:
        known = bucket in self._shapes
        names = self._columns.names if known else self._columns.with_shapes
        # Row groups are read side by side already.
        return read_group(parquet, group, names, use_threads=False)

    def _rows(self, bucket: str, rows: GroupRows, group: pa.Table) -> Rows:
        shapes = self._shapes.get(bucket)
        table = rows.of(group)
        if bucket.startswith("all") or self._columns.ragged:  # whole videos, or texts
            return self._columns.ragged_rows(table)
        if shapes is None:
            shapes = self._shapes[bucket] = self._columns.shapes(table)
        return self._columns.rows(table, shapes)

    def _read_footer(self, part: Part) -> pq.FileMetaData:
        with self._open(part) as parquet:
            rows_by_group(parquet.metadata, part)
            if not parquet.schema_arrow.equals(self._columns.schema):
                raise pa.ArrowInvalid("its columns are not those of the dataset")
            return parquet.metadata

    def _open(
        self, part: Part, footer: pq.FileMetaData | None = None
    ) -> AbstractContextManager[pq.ParquetFile]:
        return open_parquet(self._store, part.path, num_bytes=part.bytes, footer=footer)
