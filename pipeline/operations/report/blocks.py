"""Blocks that the page of a dataset consists of, and their Markdown."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text."""

    kind: ClassVar = "table"
    columns: str
    """One letter per column: `l` text, `r` number, set at the right."""
    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    """Cells; numbers without a unit may be `int`."""

    def lines(self) -> Iterator[str]:
        """Yield the table as Markdown."""
        yield _row(self.heads)
        yield _row(["---:" if column == "r" else "---" for column in self.columns])
        yield from map(_row, self.rows)


@dataclass(frozen=True, slots=True)
class Definitions:
    """Names with what is said of each."""

    kind: ClassVar = "definitions"
    items: Sequence[tuple[str, str]]
    large: bool = False
    """Whether the values are the most important numbers of the page."""

    def lines(self) -> Iterator[str]:
        """Yield a list as Markdown."""
        for name, text in self.items:
            yield f"- {name}: {text}"


Block = str | Table | Definitions
"""A paragraph, a table, or a list."""


def _row(cells: Iterable[object]) -> str:
    escaped = (str(cell).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def markdown(blocks: Iterable[Block]) -> Iterator[str]:
    """Yield the lines of some blocks, with an empty line before each."""
    for block in blocks:
        yield ""
        if isinstance(block, str):
            yield block
        else:
            yield from block.lines()
