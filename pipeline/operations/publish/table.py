"""What a Delta or Iceberg table has to offer to `publish`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class WholeFile:
    """A part, all rows of which count."""

    path: str
    """Relative to the dataset's root."""
    bytes: int
    rows: int
    first_unit: str
    """The least of the units whose rows it holds; with the greatest, a reader that looks for one
    unit knows which files to leave alone."""
    last_unit: str


class TableFormat(Protocol):
    """A table as its library sees it at one version."""

    uri: str
    """Where readers find it."""
    version: int | None
    """Of what was read or committed last; None before the first commit."""
    paths: frozenset[str]
    """Of the files that it held when it was opened, relative to the dataset's root."""

    def commit(self, added: Sequence[WholeFile], removed: Sequence[str], number: int) -> None:
        """Make the next version: all of the changes or none.

        Args:
            added: files that the table lacks.
            removed: paths of files that it has.
            number: of the log's last record that counts.

        Raises:
            StoreError: another commit came first, or the store refuses.
        """
