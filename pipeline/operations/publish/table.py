"""Interface of Delta and Iceberg tables for `publish`."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from pipeline.errors import StoreError, one_line
from pipeline.operations.shared_file import SharedFile

_COLOURS: Final = re.compile(r"\x1b\[[\d;]*m")
"""Control sequences of a terminal, which Delta's library puts into its messages."""


class TableFormat(Protocol):
    """A table at one version."""

    uri: str
    """URI of the table for readers."""
    version: int | None
    """Version that was read or committed last; None before the first commit."""
    paths: frozenset[str]
    """Paths of its files when it was opened, relative to the dataset's root."""

    def commit(self, added: Sequence[SharedFile], removed: Sequence[str], number: int) -> None:
        """Commit the next version: all of the changes or none.

        Args:
            added: files to add, whose rows all belong to a unit.
            removed: paths of files to remove.
            number: number of the newest log record that the version includes.

        Raises:
            StoreError: another commit came first, or the store refuses.
        """


@contextmanager
def table_errors(
    uri: str, *, name: str, conflict: type[Exception], other: type[Exception] = OSError
) -> Iterator[None]:
    """Raise `StoreError` for the errors of a format's library.

    Args:
        uri: URI of the table.
        name: name of the format.
        conflict: error of a commit that another one preceded.
        other: base of the library's other errors, besides `OSError`.
    """
    try:
        yield
    except StoreError:
        raise
    except (conflict, other, OSError) as error:
        line = _COLOURS.sub("", one_line(error))
        text = f"{name} table: {line}"
        if isinstance(error, conflict):
            text = f"another commit of the {name} table came first ({line}); run the command again"
        raise StoreError(f"{uri}: {text}") from error
