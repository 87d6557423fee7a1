"""A file of a store, read by ranges: one request for each range, for only those bytes.

fsspec's own files request the length and date of a file before the first byte, and read ahead. A
reader that knows a Parquet footer needs neither.
"""

import os
from typing import Any


class RangeFile:
    """The methods of a file that Arrow calls to read.

    Args:
        fs: fsspec file system.
        path: path of the file, as the file system spells it.
        num_bytes: length of the file.
    """

    closed = False

    def __init__(self, fs: Any, path: str, num_bytes: int) -> None:
        self._fs = fs
        self._path = path
        self._num_bytes = num_bytes
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the position on; all that are left if it is negative."""
        start = self._position
        stop = self._num_bytes if size < 0 else min(start + size, self._num_bytes)
        if stop <= start:
            return b""
        self._position = stop
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
