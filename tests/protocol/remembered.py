"""Parquet files that are decoded once: the model reads the same bytes again and again."""

from functools import cache
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

_ParquetFile: Final = pq.ParquetFile


class Remembered:
    """Replacement of `pyarrow.parquet.ParquetFile`."""

    def __init__(self, file: BinaryIO, **options: Any) -> None:
        file.seek(0)
        self._file = _opened(file.read())

    def read(self, columns: Any = None) -> pa.Table:
        return self._file("read", None, columns)

    def read_row_group(self, group: int, columns: Any = None) -> pa.Table:
        return self._file("read_row_group", group, columns)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file("", None, None), name)


@cache
def _opened(data: bytes) -> Any:
    opened = _ParquetFile(pa.BufferReader(data))

    @cache
    def table(method: str, group: int | None, columns: tuple[str, ...] | None) -> Any:
        if not method:
            return opened
        names = None if columns is None else list(columns)
        if group is None:
            return opened.read(names, use_threads=False)
        return opened.read_row_group(group, names, use_threads=False)

    def call(method: str, group: int | None, columns: Any) -> Any:
        return table(method, group, None if columns is None else tuple(columns))

    return call
