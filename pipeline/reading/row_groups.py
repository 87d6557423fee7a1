"""Reads row groups of parts, just the columns asked for, and keeps the footers."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import pyarrow.parquet as pq

from pipeline.dataset.part_reader import open_row_groups
from pipeline.dataset.records import Part
from pipeline.errors import StoreError
from pipeline.reading.columns import Columns, Rows, Shapes
from pipeline.storage.store import Store

_FOOTERS_KEPT: Final = 256
"""Of parts: each some 100 kB in memory for 256 MiB of rows."""


@dataclass(frozen=True, slots=True)
class _Share:
    """The rows of one row group that are a part's."""

    group: int
    first: int
    rows: int


class RowGroups:
    """Reads row groups of parts; threads may share one.

    Args:
        store: the dataset's root.
        columns: what to read.
    """

    def __init__(self, store: Store, columns: Columns) -> None:
        self._store = store
        self._columns = columns
        self._shapes: dict[str, Shapes] = {}
        """Of the cells of each bucket: all its clips have the same."""
        self._footer = lru_cache(_FOOTERS_KEPT)(self._read_footer)
        self._shares = lru_cache(_FOOTERS_KEPT)(self._find_shares)

    def sizes(self, part: Part) -> list[int]:
        """Return the number of rows of each row group, as far as they are the part's.

        Raises:
            StoreError: the part is missing or damaged, or the store refuses.
        """
        return [share.rows for share in self._shares(part)]

    def read(self, part: Part, groups: Sequence[int]) -> dict[int, Rows]:
        """Read row groups by their place in `sizes`, in one go; errors as `sizes`."""
        footer, shares = self._footer(part), self._shares(part)
        with open_row_groups(self._store, part, footer) as parquet:
            return {n: self._rows(parquet, part.bucket, shares[n]) for n in groups}

    def __reduce__(self) -> tuple[type["RowGroups"], tuple[Store, Columns]]:
        """Go to another process without what is kept here."""
        return RowGroups, (self._store, self._columns)

    def _find_shares(self, part: Part) -> list["_Share"]:
        footer = self._footer(part)
        first = part.place.first_row if part.place else 0
        shares, start = [], 0
        for n in range(footer.num_row_groups):
            stop = start + footer.row_group(n).num_rows
            begin, end = max(start, first), min(stop, first + part.rows)
            if begin < end:
                shares.append(_Share(n, begin - start, end - begin))
            start = stop
        return shares

    def _rows(self, parquet: pq.ParquetFile, bucket: str, share: "_Share") -> Rows:
        shapes = self._shapes.get(bucket)
        names = self._columns.names if shapes else self._columns.with_shapes
        # Row groups are read side by side already.
        table = parquet.read_row_group(share.group, names, use_threads=False)
        table = table.slice(share.first, share.rows)
        if bucket.startswith("all"):  # whole videos
            return self._columns.ragged_rows(table)
        if shapes is None:
            shapes = self._shapes[bucket] = self._columns.shapes(table)
        return self._columns.rows(table, shapes)

    def _read_footer(self, part: Part) -> pq.FileMetaData:
        with open_row_groups(self._store, part) as parquet:
            recorded = part.place.of_rows if part.place else part.rows
            if parquet.metadata.num_rows != recorded:
                raise StoreError(
                    f"{self._store.locate(part.path)}: {parquet.metadata.num_rows} rows, recorded"
                    f" {recorded}; run `python -m pipeline verify`"
                )
            return parquet.metadata
