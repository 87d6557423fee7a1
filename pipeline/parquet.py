"""Opens a part or quarantine table of a dataset that is taken to be sound."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.records import Part
from pipeline.storage import Store


@contextmanager
def open_parquet(store: Store, part: Part) -> Iterator[pq.ParquetFile]:
    """Give a file to read from.

    Raises:
        StoreError: it is missing or damaged, which may show only while it is read.
    """
    try:
        with store.open(part.path) as file:
            yield pq.ParquetFile(file)
    except StoreError:
        raise
    except (pa.ArrowException, OSError) as error:
        where = store.locate(part.path)
        raise StoreError(f"{where}: {error}; run `python -m pipeline verify`") from error
