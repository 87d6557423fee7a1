"""The commit log on disk: numbered JSON records without a gap, each put only if absent.

    log/00000000000000000001.json, log/00000000000000000002.json, …

A record holds a group of units, names committed units to do again, says that rows of committed
units are in other parts now or are forgotten, says that files will never count, or announces a
table. No record is ever deleted or changed, even after a manifest covers it. Otherwise a driver
that slept could find a free number below the newest one and commit where no reader looks.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Final

from pydantic import Field

from pipeline.dataset.format_version import FORMAT_VERSION, parse_versioned
from pipeline.dataset.records import (
    ForgottenDigest,
    PartPath,
    PartsMoved,
    Publication,
    Reopened,
    RowsForgotten,
    UnitRecord,
)
from pipeline.errors import StoreError
from pipeline.storage.store import Store

_READS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """One numbered record of the commit log."""

    number: Annotated[int, Field(ge=1, le=1 << 62)]
    """Number of the record, from 1."""
    token: str
    """Random text, one per writing process: a writer that reads back its own token has won."""
    run: str
    """Name of the run."""
    fingerprint: str
    """Fingerprint of the dataset."""
    units: tuple[UnitRecord, ...] = ()
    """Units that the record commits."""
    reopened: tuple[Reopened, ...] = ()
    """Committed units that the next run does again."""
    moved: tuple[PartsMoved, ...] = ()
    """Committed units whose rows are in other parts from this record on."""
    dropped: tuple[PartPath, ...] = ()
    """Paths that no later record may name, because their files are about to be deleted."""
    published: tuple[Publication, ...] = ()
    """Tables that are about to name the parts that count."""
    forgotten: tuple[ForgottenDigest, ...] = ()
    """Digests of keys and sources that no unit of a later record holds."""
    trimmed: tuple[RowsForgotten, ...] = ()
    """Committed units of which samples are forgotten from this record on."""
    format_version: int = FORMAT_VERSION
    """Version of the format."""

    def paths(self) -> Iterator[str]:
        """Yield the paths of the files that the record names as content of the dataset."""
        for unit in self.units:
            yield from (part.path for part in unit.files)
        for moved in self.moved:
            yield from (part.path for part in moved.parts)
        for trimmed in self.trimmed:
            yield from (part.path for part in trimmed.files)


def record_path(number: int) -> str:
    """Return the path of a record; names sort as numbers do."""
    return f"log/{number:020d}.json"


def numbers_in(store: Store, folder: str, suffix: str) -> list[int]:
    """Return the numbers in the names of a folder's files, ascending."""
    pattern = re.compile(rf"{folder}/(\d{{20}}){re.escape(suffix)}")
    return [int(match[1]) for name in store.list(folder) if (match := pattern.fullmatch(name))]


def parse_record(data: bytes, number: int, where: str) -> LogRecord:
    """Return a record from its bytes.

    Raises:
        ConfigError: the record is of another format version.
        StoreError: the record is damaged, or has another number.
    """
    record = parse_versioned(LogRecord, data, where, "a log record")
    if record.number != number:
        raise StoreError(
            f"{where}: contains record {record.number} instead of {number}; restore it from a copy"
        )
    return record


def read_record(store: Store, number: int) -> LogRecord:
    """Read one record.

    Raises:
        FileNotFoundError: the log has no record of this number yet.
    """
    path = record_path(number)
    return parse_record(store.read(path), number, store.locate(path))


def read_records(store: Store, after: int) -> Iterator[LogRecord]:
    """Yield all records with a number above `after`, ascending; reads ahead in parallel.

    Raises:
        StoreError: a record is missing below the newest one.
    """
    last = max(numbers_in(store, "log", ".json"), default=0)
    numbers = iter(range(after + 1, last + 1))
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        while chunk := list(islice(numbers, 4 * _READS_AT_ONCE)):
            futures = [pool.submit(read_record, store, number) for number in chunk]
            for number, future in zip(chunk, futures, strict=True):
                try:
                    yield future.result()
                except FileNotFoundError as error:
                    raise StoreError(
                        f"{store.locate(record_path(number))}: missing, although record {last}"
                        " exists; restore it from a copy, because only this record names its units"
                    ) from error


def read_next_records(store: Store, after: int) -> Iterator[LogRecord]:
    """Yield the records that follow `after` without a gap; the log is not listed.

    For a reader that is a few records behind: a listing grows with the log. Each round of requests
    asks for twice as many records as the one before it.
    """
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        count = 1
        while True:
            numbers = range(after + 1, after + 1 + count)
            for future in [pool.submit(read_record, store, number) for number in numbers]:
                try:
                    yield future.result()
                except FileNotFoundError:
                    return
            after, count = after + count, min(2 * count, _READS_AT_ONCE)
