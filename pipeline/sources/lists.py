"""Lists: files whose rows name videos or hold them. Parquet, CSV, TSV and JSON lines.

A list is divided into runs of rows. No row is kept: only the footer of a Parquet file is read, and
a text is read once for the positions of its rows. A run is read later, on another machine perhaps,
from the nearest row with a known position.
"""

import csv
import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.source import ListConfig
from pipeline.errors import ConfigError, StoreError
from pipeline.records import ListRows
from pipeline.sources.text import decoded, valid_text
from pipeline.storage.files import open_file

LIST_SUFFIXES: Final = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")


_MAX_LINE_BYTES: Final = 1 << 20
"""Maximum length of a line, and of a row of several lines; a longer row is not read."""


csv.field_size_limit(2 * _MAX_LINE_BYTES)  # the row's length is the limit


_BATCH_ROWS: Final = 1024


_BUFFER_BYTES: Final = 1 << 20


Options = Mapping[str, Any] | None


Row = dict[Any, Any]
"""The values of one row by column."""


def is_list(name: str) -> bool:
    """Return whether a file's name ends as a list's."""
    return name.lower().endswith(LIST_SUFFIXES)


def cut_list(uri: str, config: ListConfig, options: Options) -> Iterator[ListRows]:
    """Yield a list's runs of `rows_per_unit` rows.

    Raises:
        ConfigError: the list cannot be read, or lacks a column that the settings name.
        StoreError: the store failed.
    """
    if uri.lower().endswith(".parquet"):
        yield from _cut_parquet(uri, config, options)
    else:
        yield from _cut_text(uri, config, options)


def read_rows(
    rows: ListRows, config: ListConfig, options: Options
) -> Iterator[tuple[int, Row | str]]:
    """Yield the number and the columns of each row; for an unreadable row, its problem as text.

    At most one row with a video is in memory.

    Raises:
        StoreError: the store failed.
        FileNotFoundError: the list is missing.
        ValueError: the list is damaged, or has fewer rows than when it was planned.
    """
    read = _read_parquet if rows.uri.lower().endswith(".parquet") else _read_text
    count = 0
    try:
        for number, row in read(rows, config, options):
            yield number, row
            count += 1
    except (StoreError, FileNotFoundError):
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    if count < rows.stop - rows.start:
        raise ValueError(f"{count} rows from row {rows.start} on, not {rows.stop - rows.start}")


class _Columns:
    """The columns that the settings name and no row has had yet."""

    def __init__(self, uri: str, config: ListConfig) -> None:
        self._uri = uri
        self._seen: dict[str, None] = {}
        names = ("video", "key", "caption", "start_s", "end_s")
        wanted = {name: getattr(config, name) for name in names}
        wanted |= {f"meta.{n}": name for n, name in enumerate(config.meta or ())}
        self.missing = {setting: name for setting, name in wanted.items() if name is not None}

    def found(self, columns: Iterable[str]) -> None:
        """Note the columns of a row."""
        self._seen |= dict.fromkeys(columns)
        self.missing = {s: name for s, name in self.missing.items() if name not in self._seen}

    def require(self, problem: str | None = None) -> None:
        """Raise ConfigError if a column is missing in all rows, or no row can be read."""
        if problem is not None and not self._seen:
            raise ConfigError(f"{self._uri}: {problem}; no row of it can be read")
        for setting, column in self.missing.items():
            raise ConfigError(
                f"source.lists.{setting} = {column}: no such column in {self._uri}; it has"
                f" {valid_text(', '.join(self._seen)) or 'none'}"
            )


# Parquet


def _cut_parquet(uri: str, config: ListConfig, options: Options) -> Iterator[ListRows]:
    with _parquet(uri, options) as file:
        schema, metadata = file.schema_arrow, file.metadata
        columns = _Columns(uri, config)
        columns.found(schema.names)
        columns.require()
        kind = _unpacked(schema.field(config.video).type)
        if not (_is_text(kind) or _holds_bytes(kind)):
            raise ConfigError(
                f"source.lists.video = {config.video}: of type {kind} in {uri}; it must hold text,"
                " bytes, or {bytes, path}"
            )
        # A list that holds videos is divided between row groups: no two units read the same one.
        ends = (
            _group_ends(metadata, config.rows_per_unit)
            if _holds_bytes(kind)
            else range(config.rows_per_unit, metadata.num_rows, config.rows_per_unit)
        )
        start = 0
        for stop in (*ends, metadata.num_rows):
            if start < stop:
                yield ListRows(uri=uri, start=start, stop=stop)
            start = stop


def _group_ends(metadata: pq.FileMetaData, at_least: int) -> list[int]:
    """Return the ends of runs of row groups with at least that number of rows each."""
    ends, start, end = [], 0, 0
    for n in range(metadata.num_row_groups):
        end += metadata.row_group(n).num_rows
        if end - start >= at_least:
            ends.append(end)
            start = end
    return ends


def _read_parquet(
    rows: ListRows, config: ListConfig, options: Options
) -> Iterator[tuple[int, Row | str]]:
    with _parquet(rows.uri, options) as file:
        metadata = file.metadata
        groups: list[int] = []
        first = begin = 0
        for n in range(metadata.num_row_groups):
            end = begin + metadata.row_group(n).num_rows
            if begin < rows.stop and end > rows.start:
                first = first if groups else begin
                groups.append(n)
            begin = end
        heavy = _holds_bytes(_unpacked(file.schema_arrow.field(config.video).type))
        number = first
        for batch in file.iter_batches(
            batch_size=1 if heavy else _BATCH_ROWS,
            row_groups=groups,
            columns=_columns(config),
            use_threads=False,
        ):
            begin, number = number, number + len(batch)
            if number > rows.start:
                wanted = batch.slice(max(0, rows.start - begin), rows.stop - max(begin, rows.start))
                for n in range(len(wanted)):
                    yield max(begin, rows.start) + n, _parquet_row(wanted.slice(n, 1))
            if number >= rows.stop:
                return


def _parquet_row(row: pa.RecordBatch) -> Row | str:
    try:
        return dict(row.to_pylist()[0])
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date after 9999
        return str(error)


def _columns(config: ListConfig) -> list[str] | None:
    if config.meta is None:
        return None
    used = (config.video, config.key, config.caption, config.start_s, config.end_s)
    return [*{name: None for name in (*used, *config.meta) if name is not None}]


def _unpacked(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values, which a dictionary may hold once each."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


@contextmanager
def _parquet(uri: str, options: Options) -> Iterator[pq.ParquetFile]:
    with open_file(uri, options) as file:
        try:
            # No `pre_buffer`: it holds a whole row group in memory, which may be of videos.
            parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        except pa.ArrowException as error:
            raise ConfigError(f"{uri}: not a Parquet file: {error}") from error
        yield parquet


# Text


class _Raw(RawIOBase):
    """A file that is read and not closed, for a buffer of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Line(NamedTuple):
    """A line: its bytes, of a long one only the first, and its length with the line break."""

    data: bytes
    length: int


class _Lines:
    """Lines of a text from its current position, and the position of the next line."""

    def __init__(self, file: BinaryIO, place: int) -> None:
        # Its own buffer: that of fsspec for remote files copies a block for every line.
        self._file = BufferedReader(_Raw(file), _BUFFER_BYTES)
        self._returned: list[_Line] = []
        """Lines that were returned, the next one last."""
        self.place = place

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> _Line:
        line = self._returned.pop() if self._returned else self._read()
        self.place += line.length
        return line

    def unread(self, lines: Sequence[_Line]) -> None:
        """Return the last lines, which come out again."""
        self._returned += reversed(lines)
        self.place -= sum(line.length for line in lines)

    def _read(self) -> _Line:
        data = piece = self._file.readline(_MAX_LINE_BYTES)
        if not data:
            raise StopIteration
        length = len(data)
        while len(piece) == _MAX_LINE_BYTES and not piece.endswith(b"\n"):
            piece = self._file.readline(_MAX_LINE_BYTES)
            length += len(piece)
        return _Line(data.removeprefix(BOM_UTF8), length)


class _Text:
    """A CSV, TSV or JSON-lines file, row by row.

    Raises:
        ValueError: the header cannot be read.
    """

    def __init__(self, uri: str, file: BinaryIO) -> None:
        self._file = file
        self._is_json = uri.lower().endswith((".jsonl", ".ndjson"))
        self._delimiter = "\t" if uri.lower().endswith(".tsv") else ","
        lines = _Lines(file, 0)
        self.header: list[str] | None = None
        if not self._is_json:
            header = next(filter(None, self._records(lines)), [])
            if isinstance(header, str):
                raise ValueError(f"the header: {header}")
            self.header = header
        self._first_byte = lines.place

    def rows(self, at: int) -> Iterator[tuple[int, Any]]:
        """Yield the position of each row in bytes, and its fields, line or problem.

        Blank lines are skipped.

        Args:
            at: position of a row; 0 for row 0.
        """
        place = at or self._first_byte
        self._file.seek(place)
        lines = _Lines(self._file, place)
        for row in lines if self._is_json else self._records(lines):
            if row and not (isinstance(row, _Line) and row.data.isspace()):
                yield place, row
            place = lines.place

    def columns(self, row: Any) -> Row | str:
        """Return the columns of a row that `rows` yielded, or its problem as text."""
        if isinstance(row, str):
            return row
        if self.header is not None:
            return dict(zip(self.header, row, strict=True))
        try:
            value = json.loads(_text(row, row.length))
        except (ValueError, RecursionError) as error:
            return f"not JSON: {error}"
        return value if isinstance(value, dict) else "a line that is not a JSON object"

    def _records(self, lines: _Lines) -> Iterator[list[str] | str]:
        """Yield the fields of each row of a CSV, or its problem as text.

        A row that cannot be read ends with its first line: a stray quotation mark does not take the
        lines behind it.
        """
        taken: list[_Line] = []

        def feed() -> Iterator[str]:
            for line in lines:
                taken.append(line)
                yield _text(line, lines.place - begin)

        reader = None
        while True:
            reader = reader or csv.reader(feed(), delimiter=self._delimiter, strict=True)
            begin = lines.place
            taken.clear()
            try:
                fields = next(reader, None)
                if fields is None:
                    return
                if self.header is not None and fields and len(fields) != len(self.header):
                    raise ValueError(f"{len(fields)} fields, the header has {len(self.header)}")
                yield fields
            except (csv.Error, ValueError) as error:
                lines.unread(taken[1:])
                reader = None
                yield str(error)


def _text(line: _Line, length: int) -> str:
    """Return the text of a line of a row that is so long.

    Raises:
        ValueError: it is too long, or not UTF-8.
    """
    if length > _MAX_LINE_BYTES:
        raise ValueError(f"a row of more than {_MAX_LINE_BYTES} bytes")
    text, problem = decoded(line.data)
    if problem is not None:
        raise ValueError(f"{problem} of its line; save the list as UTF-8")
    return str(text)


def _cut_text(uri: str, config: ListConfig, options: Options) -> Iterator[ListRows]:
    number = start = known = 0
    wanted = _Columns(uri, config)
    problem: str | None = None
    with open_file(uri, options) as file:
        try:
            text = _Text(uri, file)
            wanted.found(text.header or ())
            for place, row in text.rows(0):
                if wanted.missing:
                    columns = text.columns(row)
                    if isinstance(columns, str):
                        problem = problem or f"row {number}: {columns}"
                    else:
                        wanted.found(columns)
                if number - start == config.rows_per_unit:
                    yield ListRows(
                        uri=uri, start=start, stop=number, known_row=start, known_byte=known
                    )
                    start, known = number, place
                number += 1
        except ValueError as error:
            raise ConfigError(f"{uri}: {error}") from error
    if start < number:
        wanted.require(problem)
        yield ListRows(uri=uri, start=start, stop=number, known_row=start, known_byte=known)


def _read_text(
    rows: ListRows, config: ListConfig, options: Options
) -> Iterator[tuple[int, Row | str]]:
    kept = _columns(config)
    with open_file(rows.uri, options) as file:
        text = _Text(rows.uri, file)
        for number, (_, row) in enumerate(text.rows(rows.known_byte), rows.known_row):
            if number >= rows.stop:
                return
            if number >= rows.start:
                columns = text.columns(row)
                if kept is not None and isinstance(columns, dict):
                    columns = {name: columns[name] for name in kept if name in columns}
                yield number, columns
