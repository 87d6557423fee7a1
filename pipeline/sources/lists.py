"""Lists: files whose rows name videos or hold them. Parquet, CSV, TSV and JSON lines.

A list is divided into runs of rows. No row is kept: only the footer of a Parquet file is read, and
a text is read once for the positions of its rows. A run is read later, on another machine perhaps,
from the nearest row with a known position.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.source import ListConfig, template_columns
from pipeline.errors import ConfigError, PipelineError, StoreError, one_line
from pipeline.records import ListRows
from pipeline.sources.list_text import ListText, Row
from pipeline.sources.text import valid_text
from pipeline.storage.files import open_file

LIST_SUFFIXES: Final = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")


_MAX_ROWS_PER_BYTE: Final = 1000
"""Maximum number of rows per byte of a Parquet list: a footer that counts more is damaged, and
would be planned as units without end."""


_BATCH_ROWS: Final = 1024


_BUFFER_BYTES: Final = 1 << 20


_FIX: Final = "write it again, or leave it out of the source"


Options = Mapping[str, Any] | None


def is_list(name: str) -> bool:
    """Return whether a file's name ends as a list's."""
    return name.lower().endswith(LIST_SUFFIXES)


def cut_list(uri: str, config: ListConfig, options: Options) -> Iterator[ListRows]:
    """Yield a list's runs of `rows_per_unit` rows.

    Raises:
        ConfigError: the list cannot be read, or lacks a column that the settings name.
        StoreError: the store failed.
    """
    cut = _cut_parquet if uri.lower().endswith(".parquet") else _cut_text
    try:
        yield from cut(uri, config, options)
    except (PipelineError, FileNotFoundError):
        raise
    except Exception as error:
        raise ConfigError(f"{uri}: the list cannot be read: {one_line(error)}; {_FIX}") from error


def read_rows(
    rows: ListRows, config: ListConfig, options: Options, more: Sequence[str] = ()
) -> Iterator[tuple[int, Row | str]]:
    """Yield the number and the columns of each row; for an unreadable row, its problem as text.

    At most one row with a video is in memory.

    Args:
        rows: the rows.
        config: the list's columns.
        options: of its file system.
        more: columns that are read beside those of `config`.

    Raises:
        StoreError: the store failed, or the memory does not hold the next rows.
        FileNotFoundError: the list is missing.
        ValueError: the list is damaged, or has fewer rows than when it was planned.
    """
    read = _read_parquet if rows.uri.lower().endswith(".parquet") else _read_text
    count = 0
    try:
        for number, row in read(rows, _kept(config, more), config, options):
            yield number, row
            count += 1
    except (StoreError, FileNotFoundError):
        raise
    except MemoryError as error:  # perhaps another process takes it now: no verdict on the list
        raise StoreError(f"{rows.uri}: {one_line(error)}") from error
    except (pa.ArrowException, *OF_ARROW) as error:
        raise ValueError(one_line(error)) from error
    if count < rows.stop - rows.start:
        raise ValueError(
            f"has {count} rows from row {rows.start} on instead of {rows.stop - rows.start}"
        )


def list_columns(uri: str, options: Options) -> list[str]:
    """Return the names of a list's columns; of JSON lines those of the first row.

    Raises:
        ConfigError: the list cannot be read.
        StoreError: the store failed.
    """
    try:
        if uri.lower().endswith(".parquet"):
            with open_parquet_list(uri, options) as parquet:
                return list(parquet.schema_arrow.names)
        with open_file(uri, options) as file:
            text = ListText(uri, file)
            first = text.columns(next(text.rows(0), (0, b"{}"))[1])
            return list(text.header or (first if isinstance(first, dict) else ()))
    except (PipelineError, FileNotFoundError):
        raise
    except Exception as error:
        raise ConfigError(f"{uri}: the list cannot be read: {one_line(error)}; {_FIX}") from error


def _used(config: ListConfig) -> list[tuple[str, str]]:
    """Return the settings that name a column, each with the column."""
    used = [("video", name) for name in template_columns(config.video) or [config.video]]
    for setting in ("key", "caption", "start_s", "end_s"):
        used += [(setting, getattr(config, setting))] * (getattr(config, setting) is not None)
    if config.frames is not None:
        used += [("frames.path", name) for name in template_columns(config.frames.path)]
        used.append(("frames.key", config.frames.key))
    return used + [(f"meta.{n}", name) for n, name in enumerate(config.meta or ())]


def _require(uri: str, columns: Iterable[str], config: ListConfig) -> None:
    """Raise ConfigError for a column that the settings name and no row has."""
    has = list(columns)
    for setting, column in _used(config):
        if column not in has:
            raise ConfigError(
                f"source.lists.{setting} = {column}: no such column in {uri}; it has"
                f" {valid_text(', '.join(has)) or 'none'}"
            )


def _kept(config: ListConfig, more: Sequence[str]) -> list[str] | None:
    """Return the columns that are read; None for all."""
    if config.meta is None:
        return None
    return [*dict.fromkeys([*(name for _, name in _used(config)), *more])]


OF_ARROW: Final = (OSError, OverflowError, LookupError)
"""What Arrow raises for damage, beside its own errors and ValueError. An error of the store is a
`StoreError`."""


def _cut_parquet(uri: str, config: ListConfig, options: Options) -> Iterator[ListRows]:
    with open_parquet_list(uri, options) as file:
        schema, metadata = file.schema_arrow, file.metadata
        _require(uri, schema.names, config)
        kind = _video_type(schema, config)
        if not (_is_text(kind) or _holds_bytes(kind)):
            raise ConfigError(
                f"source.lists.video = {config.video}: of type {kind} in {uri}; it must hold text,"
                " bytes, or {bytes, path}"
            )
        # A list that holds videos is divided between row groups: no two units read the same one.
        ends: list[int] = []
        if _holds_bytes(kind):
            for end in _group_ends(metadata):
                if end - (ends[-1] if ends else 0) >= config.rows_per_unit:
                    ends.append(end)
        else:
            ends += range(config.rows_per_unit, metadata.num_rows, config.rows_per_unit)
        for start, stop in pairwise([0, *ends, metadata.num_rows]):
            if start < stop:
                yield ListRows(uri=uri, start=start, stop=stop)


def _group_ends(metadata: pq.FileMetaData) -> list[int]:
    """Return the number of rows up to the end of each row group."""
    groups = range(metadata.num_row_groups)
    return [*accumulate(metadata.row_group(n).num_rows for n in groups)]


def _read_parquet(
    rows: ListRows, kept: list[str] | None, config: ListConfig, options: Options
) -> Iterator[tuple[int, Row | str]]:
    with open_parquet_list(rows.uri, options) as file:
        bounds = [0, *_group_ends(file.metadata)]
        spans = enumerate(pairwise(bounds))
        groups = [n for n, (begin, end) in spans if begin < rows.stop and end > rows.start]
        heavy = _holds_bytes(_video_type(file.schema_arrow, config))
        number = bounds[groups[0]] if groups else 0
        for batch in file.iter_batches(
            batch_size=1 if heavy else _BATCH_ROWS,
            row_groups=groups,
            columns=kept,
            use_threads=False,
        ):
            sound = _damage_of(batch) is None
            for n in range(len(batch)):
                if rows.start <= number < rows.stop:
                    row = batch.slice(n, 1)
                    yield number, (None if sound else _damage_of(row)) or _parquet_row(row)
                number += 1
            if number >= rows.stop:
                return


def _damage_of(rows: pa.RecordBatch) -> str | None:
    """Return what is wrong with rows: text that is not UTF-8, an index that names no value."""
    try:
        rows.validate(full=True)
    except pa.ArrowException as error:
        return one_line(error)
    return None


def _parquet_row(row: pa.RecordBatch) -> Row | str:
    try:
        return dict(row.to_pylist()[0])
    except MemoryError:
        raise
    except Exception as error:  # a date after 9999, a time zone that does not exist
        return one_line(error)


def _video_type(schema: pa.Schema, config: ListConfig) -> pa.DataType:
    """Return the type of the videos' names or bytes, which a dictionary may hold once each."""
    if template_columns(config.video):
        return pa.string()
    kind = schema.field(config.video).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return kind in (pa.binary(), pa.large_binary(), pa.binary_view())


@contextmanager
def open_parquet_list(uri: str, options: Options) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; refuse a footer that counts more rows than a file of its size has."""
    with open_file(uri, options) as file:
        # No `pre_buffer`: it holds a whole row group in memory, which may be of videos.
        parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        num_rows, ends = parquet.metadata.num_rows, [0, *_group_ends(parquet.metadata)]
        limit = _MAX_ROWS_PER_BYTE * file.seek(0, os.SEEK_END)
        if not (sorted(ends) == ends and ends[-1] == num_rows <= limit):
            raise ValueError(f"its footer says {num_rows} rows, and its row groups {ends[-1]}")
        yield parquet


def _cut_text(uri: str, config: ListConfig, options: Options) -> Iterator[ListRows]:
    number = start = known = 0
    problem = None
    used = {name for _, name in _used(config)}
    with open_file(uri, options) as file:
        text = ListText(uri, file)
        seen = dict.fromkeys(text.header or ())
        for place, row in text.rows(0):
            if not used <= seen.keys():
                columns = text.columns(row)
                if isinstance(columns, dict):
                    seen |= dict.fromkeys(columns)
                else:
                    problem = problem or f"row {number}: {columns}"
            if number - start == config.rows_per_unit:
                yield ListRows(uri=uri, start=start, stop=number, known_row=start, known_byte=known)
                start, known = number, place
            number += 1
    if problem is not None and not seen:
        raise ConfigError(f"{uri}: {problem}; no row of it can be read: {_FIX}")
    if start < number:
        _require(uri, seen, config)
        yield ListRows(uri=uri, start=start, stop=number, known_row=start, known_byte=known)


def _read_text(
    rows: ListRows, kept: list[str] | None, _config: ListConfig, options: Options
) -> Iterator[tuple[int, Row | str]]:
    with open_file(rows.uri, options) as file:
        text = ListText(rows.uri, file)
        for number, (_, row) in enumerate(text.rows(rows.known_byte), rows.known_row):
            if number >= rows.stop:
                return
            if number >= rows.start:
                columns = text.columns(row)
                if kept is not None and isinstance(columns, dict):
                    columns = {name: columns[name] for name in kept if name in columns}
                yield number, columns
