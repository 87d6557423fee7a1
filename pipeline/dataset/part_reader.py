"""Reads parts and quarantine tables: of a dataset that is taken to be sound, and rows of a unit."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.records import Part
from pipeline.errors import StoreError
from pipeline.storage.files import is_local
from pipeline.storage.store import Store


@contextmanager
def open_parquet(store: Store, path: str) -> Iterator[pq.ParquetFile]:
    """Give a file to read from its start to its end.

    Raises:
        StoreError: it is missing or damaged, which may show only while it is read.
    """
    with _sound(store, path), store.open(path) as file:
        yield pq.ParquetFile(file)


@contextmanager
def open_row_groups(
    store: Store, part: Part, footer: pq.FileMetaData | None = None
) -> Iterator[pq.ParquetFile]:
    """Give a file of which some row groups and columns are read, and no other bytes.

    Args:
        store: the dataset's root.
        part: the file.
        footer: its metadata, if known: it is not read again then.

    Raises:
        StoreError: as `open_parquet`.
    """
    with _sound(store, part.path), store.open_ranges(part.path, part.bytes) as file:
        # A thread of Arrow's asks a store for neighbouring columns in one request; a local file is
        # read sooner without it.
        yield pq.ParquetFile(file, metadata=footer, pre_buffer=not isinstance(file, pa.OSFile))


@contextmanager
def _sound(store: Store, path: str) -> Iterator[None]:
    """Turn what a missing or damaged file raises into `StoreError`."""
    where = store.locate(path)
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(
            f"{where}: missing; if its unit was done again, vacuum may have deleted it: open a"
            " newer version, or run `python -m pipeline verify`"
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{where}: {error}; run `python -m pipeline verify`") from error


def unit_rows(
    parquet: pq.ParquetFile, part: Part, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Yield a unit's rows of an open part, a row group or what is the unit's of it at a time.

    Args:
        parquet: the part.
        part: as the unit's record names it; without a place all rows are the unit's.
        columns: None reads all.
    """
    first = part.place.first_row if part.place else 0
    end = first + part.rows if part.place else parquet.metadata.num_rows
    start = 0
    for n in range(parquet.num_row_groups):
        stop = start + parquet.metadata.row_group(n).num_rows
        if start < end and stop > first:
            rows = parquet.read_row_group(n, columns=columns)
            yield rows.slice(max(first - start, 0), min(end, stop) - max(first, start))
        start = stop


_CHUNK: Final = 8 << 20


@contextmanager
def fetched(store: Store, path: str) -> Iterator[tuple[IO[bytes], str]]:
    """Give a file, seekable, and the SHA-256 of its content; a remote one is fetched once."""
    digest = hashlib.sha256()
    with store.open(path) as source, tempfile.TemporaryFile() as copy:
        local = is_local(store.uri)
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            if not local:
                copy.write(chunk)
        file = source if local else copy
        file.seek(0)
        yield file, digest.hexdigest()
