"""Opens files that may be damaged: compares their digest, then reads them as Parquet.

A file whose digest differs from its record is not opened, because its content proves nothing.
"""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.metadata import Dataset
from pipeline.dataset.parquet_file import UNREADABLE, parquet_reader
from pipeline.dataset.part_reader import fetched
from pipeline.dataset.part_writer import MERGED_NAME
from pipeline.dataset.records import Part
from pipeline.errors import PipelineError, one_line
from pipeline.operations.findings import Finding
from pipeline.storage.store import Store

Opened = tuple[pq.ParquetFile | None, list[Finding]]
"""An opened file, or None if it cannot be read, and what is wrong with it."""


@contextmanager
def checked_parquet(store: Store, part: Part, pattern: str, schema: pa.Schema) -> Iterator[Opened]:
    """Give a file after its digest, columns and number of rows were checked.

    Args:
        store: the dataset's root.
        part: record of the file.
        pattern: regular expression for its path up to the digest, without a group.
        schema: columns and metadata that it must have.
    """
    findings: list[Finding] = []

    def wrong(kind: str, text: str) -> list[Finding]:
        return [*findings, Finding(kind, part.path, text)]

    name = re.fullmatch(rf"{pattern}-([0-9a-f]{{16}})[0-9a-f]{{16}}\.parquet", part.path)
    if name is None or not part.sha256.startswith(name[1]):
        findings = wrong("checksum", f"the name does not match the unit and {part.sha256}")
    with ExitStack() as stack:
        try:
            file, digest = stack.enter_context(fetched(store, part.path))
        except FileNotFoundError:
            yield None, wrong("missing", "deleted since it was listed")
            return
        if digest != part.sha256:
            yield None, wrong("checksum", f"SHA-256 {digest}, recorded {part.sha256}")
            return
        try:
            parquet = parquet_reader(file)
        except PipelineError:
            raise
        except UNREADABLE as error:
            yield None, wrong("unreadable", one_line(error))
            return
        # Without `check_metadata`, which also compares Parquet's names of list elements.
        found = parquet.schema_arrow
        if not found.equals(schema) or found.metadata != schema.metadata:
            yield None, wrong("schema", "columns or metadata differ from the dataset")
            return
        rows, recorded = parquet.metadata.num_rows, part.place.of_rows if part.place else part.rows
        if rows != recorded:
            yield None, wrong("rows", f"{rows} rows, recorded {recorded}")
            return
        yield parquet, findings


class MergedFiles:
    """Merged parts, each fetched and checked once. They must be closed.

    One part per bucket is open at a time: units and the rows of merged parts have the same order,
    that of commits. A part that was closed is fetched again.

    Attributes:
        seen: paths of the parts that were checked.
    """

    def __init__(self, store: Store, dataset: Dataset) -> None:
        self._store = store
        self._schema = dataset.schema
        self._stacks: dict[str, ExitStack] = {}
        self._open: dict[str, tuple[str, pq.ParquetFile | None]] = {}
        self.seen: set[str] = set()

    def close(self) -> None:
        """Close the open parts."""
        for stack in self._stacks.values():
            stack.close()

    def open(self, part: Part) -> Opened:
        """Return the file that holds a unit's rows; its findings are returned only once."""
        path, parquet = self._open.get(part.bucket, ("", None))
        if path == part.path:
            return parquet, []
        stack = self._stacks.setdefault(part.bucket, ExitStack())
        stack.close()
        pattern = rf"data/{re.escape(part.bucket)}/{MERGED_NAME.pattern}-0"
        parquet, findings = stack.enter_context(
            checked_parquet(self._store, part, pattern, self._schema)
        )
        self._open[part.bucket] = part.path, parquet
        new = part.path not in self.seen
        self.seen.add(part.path)
        return parquet, findings if new else []
