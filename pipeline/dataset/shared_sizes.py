"""Where a row group ends whose rows repeat large values, each of which is stored once.

A group of 4 MiB of distinct embeddings can hold a hundred clips. If it were cut by its size in
memory, it would hold three.
"""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

EXPANDED: Final = 16
"""Factor between the bytes of a full row group with repeats and without. It bounds what a reader
that expands the repeats holds in memory."""


class SharedSizes:
    """The sizes of pending rows, of which equal values of some columns count once.

    Args:
        names: names of the binary columns whose values repeat.

    Attributes:
        names: the same.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._rows: list[list[tuple[int, int]]] = []
        """Hash and number of bytes of each value, by row."""

    def add(self, rows: pa.Table) -> None:
        """Add the next rows."""
        columns = [rows[name].to_pylist() for name in self.names]
        if columns:
            self._rows += [[(hash(v), len(v)) for v in row] for row in zip(*columns, strict=True)]

    def full(self, max_bytes: int) -> int:
        """Return the number of rows from the first that fill a row group; 0 if they do not.

        A full group takes the following rows as long as they repeat its values.

        Args:
            max_bytes: bytes of distinct values at which a row group is full.
        """
        seen: set[tuple[int, int]] = set()
        distinct = whole = 0
        for count, row in enumerate(self._rows):
            new = sum(size for _, size in set(row) - seen)
            if (new and distinct >= max_bytes) or whole >= EXPANDED * max_bytes:
                return count
            distinct += new
            whole += sum(size for _, size in row)
            seen.update(row)
        return 0

    def drop(self, count: int) -> None:
        """Remove the first rows."""
        del self._rows[:count]
