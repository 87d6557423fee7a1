"""Opens Parquet files of a store so that no thread of Arrow runs Python code.

Arrow's threads are still alive when the interpreter ends. A thread that then calls or releases a
Python file aborts the process: the work is done, and the exit code is 134. So Arrow reads local
files itself, and other files only in the thread that asks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.storage.range_file import RangeFile
from pipeline.storage.store import Store


@contextmanager
def parquet_file(
    store: Store, path: str, *, num_bytes: int | None = None, footer: pq.FileMetaData | None = None
) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; only the bytes of the columns asked for are read.

    Args:
        store: the dataset's root.
        path: path of the file.
        num_bytes: length of the file; None asks the store.
        footer: its metadata; None reads it.

    Raises:
        FileNotFoundError: no file exists at the path.
        pyarrow.ArrowException, OSError: the file is damaged, which may show only while it is read.
        StoreError: the store refuses.
    """
    with store.open_ranges(path, num_bytes) as file:
        if isinstance(file, RangeFile):
            yield _RemoteParquet(file, footer)
        else:
            # Without `pre_buffer` a local file is read faster.
            yield pq.ParquetFile(file, metadata=footer, pre_buffer=False)


class _RemoteParquet(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file read in the calling thread, with neighbouring columns in one request."""

    def __init__(self, file: RangeFile, footer: pq.FileMetaData | None) -> None:
        super().__init__(file, metadata=footer, pre_buffer=False)
        self._ranges = file

    def read(self, columns: Sequence[str] | None = None, **_: Any) -> pa.Table:
        """Return all rows of the columns."""
        return self.read_row_groups(range(self.num_row_groups), columns)

    def read_row_group(self, i: int, columns: Sequence[str] | None = None, **_: Any) -> pa.Table:
        """Return the rows of a row group."""
        return self.read_row_groups([i], columns)

    def read_row_groups(
        self, row_groups: Sequence[int], columns: Sequence[str] | None = None, **_: Any
    ) -> pa.Table:
        """Return the rows of row groups."""
        self._ranges.prefetch(_column_chunks(self.metadata, row_groups, columns))
        return super().read_row_groups(list(row_groups), columns, use_threads=False)


def _column_chunks(
    footer: pq.FileMetaData, groups: Sequence[int], columns: Sequence[str] | None
) -> list[range]:
    """Return the bytes of columns in row groups."""
    found = []
    for group in map(footer.row_group, groups):
        for chunk in map(group.column, range(group.num_columns)):
            if columns is None or chunk.path_in_schema.partition(".")[0] in columns:
                start = chunk.data_page_offset
                if chunk.has_dictionary_page:
                    start = min(start, chunk.dictionary_page_offset)
                found.append(range(start, start + chunk.total_compressed_size))
    return found
