"""Interface of Delta and Iceberg tables for `publish`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A part whose rows all belong to a unit."""

    path: str
    """Path relative to the dataset's root."""
    bytes: int
    rows: int
    first_unit: str
    """Smallest id of the units in the file. Readers of one unit skip files by these bounds."""
    last_unit: str
    """Largest id of the units in the file."""


class TableFormat(Protocol):
    """A table at one version."""

    uri: str
    """URI of the table for readers."""
    version: int | None
    """Version that was read or committed last; None before the first commit."""
    paths: frozenset[str]
    """Paths of its files when it was opened, relative to the dataset's root."""

    def commit(self, added: Sequence[WholeFile], removed: Sequence[str], number: int) -> None:
        """Commit the next version: all of the changes or none.

        Args:
            added: files to add.
            removed: paths of files to remove.
            number: number of the newest log record that the version includes.

        Raises:
            StoreError: another commit came first, or the store refuses.
        """
