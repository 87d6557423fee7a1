"""A file of a store, read by ranges: one request for each range, for only those bytes.

fsspec's own files request the length and date of a file before the first byte, and read ahead. A
reader that knows a Parquet footer needs neither.
"""

import os
from collections.abc import Sequence
from typing import Any

from pipeline.storage.files import read_ranges, store_errors


class RangeFile:
    """The methods of a file that Arrow calls to read.

    Args:
        fs: fsspec file system.
        path: path of the file, as the file system spells it.
        num_bytes: length of the file.
        where: URI of the file, for errors.

    Methods that read raise `StoreError`, or `FileNotFoundError` if no file exists at the path.
    """

    closed = False

    def __init__(self, fs: Any, path: str, num_bytes: int, where: str) -> None:
        self._fs = fs
        self._path = path
        self._num_bytes = num_bytes
        self._where = where
        self._position = 0
        self._fetched: list[tuple[int, bytes]] = []
        """Start and content of the ranges that were fetched ahead."""

    def prefetch(self, ranges: Sequence[range]) -> None:
        """Fetch ranges of bytes together; later reads within them send no request.

        Args:
            ranges: what will be read. Ranges that were fetched before are forgotten.
        """
        self._fetched = []
        inside = [range(max(0, one.start), min(one.stop, self._num_bytes)) for one in ranges]
        with store_errors(self._where):
            self._fetched = read_ranges(self._fs, self._path, [one for one in inside if one])

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the position on; all that are left if it is negative."""
        start = self._position
        stop = self._num_bytes if size < 0 else min(start + size, self._num_bytes)
        if stop <= start:
            return b""
        self._position = stop
        for first, content in self._fetched:
            if first <= start and stop <= first + len(content):
                return content[start - first : stop - first]
        with store_errors(self._where):
            return bytes(self._fs.cat_file(self._path, start=start, end=stop))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._num_bytes}
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def close(self) -> None:
        """Do nothing: no request is open between reads."""

    def __enter__(self) -> "RangeFile":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
