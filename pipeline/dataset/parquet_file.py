"""Parquet files in which damage shows: all that this package writes and reads back.

    pages, each with its CRC-32 │ CRC-32 of all that follows │ footer │ its length │ PAR1

Parquet has checksums of pages and none of the footer. So four bytes before the footer, which no
other reader looks at, hold a checksum of the rest of the file. Page headers have no checksum: the
footer's numbers of rows and values, and the pages that follow, contradict a damaged one.

No thread of Arrow runs Python code. Arrow's threads are still alive when the interpreter ends, and
one that then calls or releases a Python file aborts the process: the work is done, and the exit
code is 134. So Arrow reads local files itself, and other files only in the thread that asks.
"""

import os
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.storage.range_file import RangeFile

UNREADABLE: Final = (pa.ArrowException, OSError, ValueError)
"""Errors of damaged files: Arrow's, and those of texts that are not UTF-8."""


_MAGIC: Final = b"PAR1"


_TAIL_BYTES: Final = 64 << 10
"""Number of bytes that are read first: they hold the footers of most files."""


def parquet_writer(file: BinaryIO, schema: pa.Schema, **options: Any) -> pq.ParquetWriter:
    """Start a file; after its last row close the writer and call `seal`.

    Args:
        file: file to write, which can also be read.
        schema: schema of the rows.
        options: options of `pyarrow.parquet.ParquetWriter`.
    """
    return pq.ParquetWriter(file, schema, write_page_checksum=True, **options)


def seal(file: BinaryIO) -> None:
    """Put the checksum of the footer before the footer of a file that was written."""
    end = file.seek(-8, os.SEEK_END)
    start = end - int.from_bytes(file.read(4), "little")
    file.seek(start)
    footer = file.read()
    file.seek(start)
    file.write(_checksum(footer) + footer)


def read_footer(file: Any) -> pq.FileMetaData:
    """Return the metadata of an open file, seekable; reads no more than its end.

    Raises:
        UNREADABLE: the footer is damaged.
    """
    size = file.seek(0, os.SEEK_END)
    tail = _read(file, max(0, size - _TAIL_BYTES), size)
    length = 12 + int.from_bytes(tail[-8:-4], "little")
    if len(tail) < min(length, size):
        tail = _read(file, max(0, size - length), size)
    sealed = tail[max(0, len(tail) - length) :]
    if len(sealed) < length or not sealed.endswith(_MAGIC):
        raise pa.ArrowInvalid("not a Parquet file, or its end is missing")
    if sealed[:4] != _checksum(sealed[4:]):
        raise pa.ArrowInvalid("the footer does not match its checksum")
    return pq.read_metadata(pa.BufferReader(sealed[4:]))


def parquet_reader(
    file: pa.NativeFile | RangeFile, footer: pq.FileMetaData | None = None
) -> pq.ParquetFile:
    """Open a file whose pages are compared with their checksums as they are read.

    Args:
        file: open file.
        footer: its metadata; None reads it.

    Raises:
        UNREADABLE: the footer is damaged.
    """
    kind = _RemoteParquet if isinstance(file, RangeFile) else pq.ParquetFile
    # Without `pre_buffer` a local file is read faster.
    return kind(
        file,
        metadata=footer or read_footer(file),
        page_checksum_verification=True,
        pre_buffer=False,
    )


class _RemoteParquet(pq.ParquetFile):  # type: ignore[misc]
    """A Parquet file read in the calling thread, with neighbouring columns in one request."""

    def __init__(self, file: RangeFile, **options: Any) -> None:
        super().__init__(file, **options)
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


def read_group(
    parquet: pq.ParquetFile, group: int, columns: Sequence[str] | None = None, **options: Any
) -> pa.Table:
    """Return a row group of a file from `parquet_reader`.

    Raises:
        UNREADABLE: its pages are damaged.
    """
    table = parquet.read_row_group(group, columns=columns, **options)
    if missing := set(columns or ()).difference(table.column_names):
        raise pa.ArrowInvalid(f"it has no columns {sorted(missing)}")
    footer = parquet.metadata.row_group(group)
    # Of the chunks of a nested column the first counts: lists further inside have more values.
    chunks = [footer.column(n) for n in reversed(range(footer.num_columns))]
    recorded = {chunk.path_in_schema.partition(".")[0]: chunk.num_values for chunk in chunks}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if len(column) != footer.num_rows or _num_values(column) != recorded[name]:
            raise pa.ArrowInvalid(f"row group {group}, column {name}: not the number of values")
    return table


def _num_values(column: pa.ChunkedArray) -> int:
    """Return the number of values as Parquet counts them: an empty or absent list is one."""
    if not pa.types.is_list(column.type):
        return len(column)
    lengths = pc.max_element_wise(pc.list_value_length(column), 1)
    return pc.sum(lengths).as_py() or 0


def _read(file: Any, start: int, stop: int) -> bytes:
    file.seek(start)
    return bytes(file.read(stop - start))


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")
