"""The rows of a list that is text, CSV, TSV or JSON lines, from any row with a known position."""

import csv
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from pipeline.sources.text import decoded

_MAX_LINE_BYTES: Final = 1 << 20
"""Maximum length of a line, and of a row of several lines; a longer row is not read."""


csv.field_size_limit(2 * _MAX_LINE_BYTES)  # the row's length is the limit


_BUFFER_BYTES: Final = 1 << 20


_PIECES: Final = re.compile(rb"[^\n]*\n|[^\n]+")
"""Lines of a block of bytes; the last can be incomplete."""


Row = dict[Any, Any]
"""The values of one row by column."""


class ListText:
    """A CSV, TSV or JSON-lines file, row by row.

    Raises:
        ValueError: the header cannot be read.
    """

    def __init__(self, uri: str, file: BinaryIO) -> None:
        self._file = file
        self._is_json = uri.lower().endswith((".jsonl", ".ndjson"))
        self._delimiter = "\t" if uri.lower().endswith(".tsv") else ","
        self._first_byte = 0
        self.header: list[str] | None = None
        """Columns of a CSV or TSV; None for JSON lines."""
        if not self._is_json:
            _, self._first_byte, header = next(self._records(0), (0, 0, []))
            if isinstance(header, str):
                raise ValueError(f"the header cannot be read: {header}")
            self.header = header

    def rows(self, at: int) -> Iterator[tuple[int, Any]]:
        """Yield the position of each row in bytes, and its line, fields or problem.

        Args:
            at: position of a row; 0 for row 0.
        """
        at = at or self._first_byte
        if self._is_json:
            for end, line in _lines(self._file, at):
                if not line.isspace():
                    yield at, line
                at = end
        else:
            yield from ((begin, row) for begin, _, row in self._records(at))

    def columns(self, row: Any) -> Row | str:
        """Return the columns of a row that `rows` yielded, or its problem as text."""
        if isinstance(row, str):
            return row
        if self.header is not None:
            return dict(zip(self.header, row, strict=True))
        try:
            value = json.loads(_text(row, len(row)))
        except (ValueError, RecursionError) as error:
            return f"not JSON: {error}"
        return value if isinstance(value, dict) else "a line that is not a JSON object"

    def _records(self, at: int) -> Iterator[tuple[int, int, list[str] | str]]:
        """Yield the position of each row of a CSV, the one behind it, and its fields or problem.

        A row that cannot be read ends with its first line: a stray quotation mark does not take the
        lines behind it.
        """
        ends: list[int] = []
        """Position behind each line of the row."""

        def feed() -> Iterator[str]:
            for end, line in lines:
                ends.append(end)
                yield _text(line, end - at)

        lines, reader = _lines(self._file, at), None
        while True:
            reader = reader or csv.reader(feed(), delimiter=self._delimiter, strict=True)
            row: list[str] | str | None
            try:
                row = next(reader, None)
            except (csv.Error, ValueError) as error:
                row = str(error)
            if row is None:
                return
            if row and self.header and not isinstance(row, str) and len(row) != len(self.header):
                row = f"{len(row)} fields, the header has {len(self.header)}"
            if isinstance(row, str):
                reader = None
                if len(ends) > 1:
                    lines = _lines(self._file, ends[0])
                    del ends[1:]
            if row:
                yield at, ends[-1], row
            at = ends[-1]
            ends.clear()


def _lines(file: BinaryIO, at: int) -> Iterator[tuple[int, bytes]]:
    """Yield each line from a position on, after the position behind it.

    A line of more than `_MAX_LINE_BYTES` is cut somewhere behind them.
    """
    file.seek(at)
    line = b""
    while block := file.read(_BUFFER_BYTES):
        for piece in _PIECES.findall(block):
            at += len(piece)
            line += piece if len(line) <= _MAX_LINE_BYTES else b""
            if piece.endswith(b"\n"):
                yield at, line
                line = b""
    if line:
        yield at, line


def _text(line: bytes, length: int) -> str:
    """Return the text of a line of a row that has this length up to there.

    Raises:
        ValueError: it is too long, or not UTF-8.
    """
    if max(length, len(line)) > _MAX_LINE_BYTES:
        raise ValueError(f"a row of more than {_MAX_LINE_BYTES} bytes")
    text, problem = decoded(line)
    if problem is not None:
        raise ValueError(f"{problem} of its line; save the list as UTF-8")
    return str(text)
