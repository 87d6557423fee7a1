"""Reads row groups of parts, just the columns asked for, and keeps the footers."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.parquet import open_row_groups
from pipeline.reading.cells import Columns, Rows, Shapes
from pipeline.records import Part
from pipeline.storage import Store

_FOOTERS_KEPT: Final = 256
"""Of parts: each some 100 kB in memory for 256 MiB of rows."""


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

    def sizes(self, part: Part) -> list[int]:
        """Return the number of rows of each row group.

        Raises:
            StoreError: the part is missing or damaged, or the store refuses.
        """
        footer = self._footer(part)
        return [footer.row_group(n).num_rows for n in range(footer.num_row_groups)]

    def read(self, part: Part, groups: Sequence[int]) -> dict[int, Rows]:
        """Read row groups by number, in one go; errors as `sizes`."""
        footer = self._footer(part)
        with open_row_groups(self._store, part, footer) as parquet:
            return {group: self._rows(parquet, part.bucket, group) for group in groups}

    def __reduce__(self) -> tuple[type["RowGroups"], tuple[Store, Columns]]:
        """Go to another process without what is kept here."""
        return RowGroups, (self._store, self._columns)

    def _rows(self, parquet: pq.ParquetFile, bucket: str, group: int) -> Rows:
        shapes = self._shapes.get(bucket)
        names = self._columns.names if shapes else self._columns.with_shapes
        # Row groups are read side by side already.
        table = parquet.read_row_group(group, names, use_threads=False)
        if shapes is None:
            shapes = self._shapes[bucket] = self._columns.shapes(table)
        return self._columns.rows(table, shapes)

    def _read_footer(self, part: Part) -> pq.FileMetaData:
        with open_row_groups(self._store, part) as parquet:
            if parquet.metadata.num_rows != part.rows:
                raise StoreError(
                    f"{self._store.locate(part.path)}: {parquet.metadata.num_rows} rows, recorded"
                    f" {part.rows}; run `python -m pipeline verify`"
                )
            return parquet.metadata
