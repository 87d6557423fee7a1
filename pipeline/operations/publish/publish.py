"""Makes the parts that count a table of Delta Lake or Apache Iceberg; no part is copied or read.

    manifest ─► whole files ─► those that the table lacks, and those that it should not have
                               ─► one commit of the table, in the format's own library

A table has the columns of the parts and no other. The bucket is no column of it: where a column is
not in the files but in the table's log alone, as both formats permit, several readers take it for
null, and a filter by it finds nothing without a word.

The table is opened before the manifest is read, and its commit fails if anybody else's came in
between. So a table never goes back to an older state of the log, however many publish it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.dataset.metadata import Dataset, read_dataset
from pipeline.dataset.records import Part
from pipeline.dataset.schema import clip_schema
from pipeline.errors import ConfigError, StoreError
from pipeline.operations.publish.table import TableFormat, WholeFile
from pipeline.storage.store import Store, StoredFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a table holds now."""

    output: str
    format: str
    table: str
    """URI for readers."""
    version: int
    """Of the table."""
    log_number: int
    files: int
    rows: int
    added: int
    """Files that the version before did not have."""
    removed: int
    changed: bool
    """Whether this call made the version."""

    exit_code = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": self.output,
            "format": self.format,
            "table": self.table,
            "version": self.version,
            "log_number": self.log_number,
            "files": self.files,
            "rows": self.rows,
            "added": self.added,
            "removed": self.removed,
            "changed": self.changed,
        }

    def lines(self) -> list[str]:
        """Return the same for a person."""
        change = f"{self.added} files added, {self.removed} removed"
        held = f"{self.files} files · {self.rows} rows"
        return [
            f"table      {self.table} · {self.format}",
            f"holds      {held} · log up to record {self.log_number}",
            f"version    {self.version}: {change if self.changed else 'as before'}",
        ]


def publish(store: Store, table_format: str) -> Published:
    """Make a table hold the parts that count now, in one new version of it if it does not yet.

    Args:
        store: the dataset's root; put-if-absent is needed.
        table_format: `delta` or `iceberg`.

    Raises:
        ConfigError: there is no dataset or no such format, or its library is not installed.
        StoreError: rows of a merged part do not count any more, another commit of the table came
            first, the log is damaged, or the store refuses; the table is as it was.
    """
    if table_format not in _FORMATS:
        raise ConfigError(f"--format {table_format}: no table format; use {' or '.join(_FORMATS)}")
    dataset = read_dataset(store)
    store.require_put_if_absent()
    table = _FORMATS[table_format](store, clip_schema(dataset.tokenizers))
    manifest = read_manifest(store)
    files = list(_whole_files(store, manifest))
    added = [file for file in files if file.path not in table.paths]
    removed = sorted(table.paths - {file.path for file in files})
    changed = bool(added or removed or table.version is None)
    if changed:
        table.commit(added, removed, manifest.number)
    assert table.version is not None
    return Published(
        output=store.uri,
        format=table_format,
        table=table.uri,
        version=table.version,
        log_number=manifest.number,
        files=len(files),
        rows=sum(file.rows for file in files),
        added=len(added),
        removed=len(removed),
        changed=changed,
    )


def published_files(store: Store, dataset: Dataset, files: Iterable[StoredFile]) -> frozenset[str]:
    """Return the paths that the newest versions of the dataset's tables name.

    Args:
        store: the dataset's root.
        dataset: of it.
        files: that stand there.

    Raises:
        ConfigError: a table's library is not installed.
        StoreError: a table cannot be read.
    """
    found = {name for file in files for name, mark in _MARKS.items() if file.path.startswith(mark)}
    schema = clip_schema(dataset.tokenizers)
    return frozenset().union(*(_FORMATS[name](store, schema).paths for name in found))


def _whole_files(store: Store, manifest: Manifest) -> Iterator[WholeFile]:
    """Yield the files of the parts that count, each once, in the order of commits.

    Raises:
        StoreError: a merged part holds rows that do not count; a table has files as a whole.
    """
    shares: dict[str, list[tuple[str, Part]]] = {}
    for unit in manifest.units():
        for part in unit.parts:
            shares.setdefault(part.path, []).append((unit.unit, part))
    for path, of_units in shares.items():
        _, part = of_units[0]
        rows = sum(share.rows for _, share in of_units)
        if part.place is not None and part.place.of_rows != rows:
            raise StoreError(
                f"{store.locate(path)}: {part.place.of_rows - rows} of its {part.place.of_rows}"
                " rows do not count any more, since their unit was done again, and a table takes"
                " files as a whole; run `python -m pipeline compact`, then this again"
            )
        units = [unit for unit, _ in of_units]
        yield WholeFile(path, part.bytes, rows, min(units), max(units))


def _delta(store: Store, schema: pa.Schema) -> TableFormat:
    try:
        from pipeline.operations.publish.delta import Delta
    except ImportError as error:
        raise _not_installed("delta", error) from error
    return Delta(store, schema)


def _iceberg(store: Store, schema: pa.Schema) -> TableFormat:
    try:
        from pipeline.operations.publish.iceberg import Iceberg
    except ImportError as error:
        raise _not_installed("iceberg", error) from error
    return Iceberg(store, schema)


def _not_installed(table_format: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"{table_format} table: {error}; install the extra: vidtok-pipeline[publish]"
    )


_FORMATS: Final[dict[str, Callable[[Store, pa.Schema], TableFormat]]] = {
    "delta": _delta,
    "iceberg": _iceberg,
}


_MARKS: Final = {"delta": "_delta_log/", "iceberg": "iceberg/metadata/"}
"""Folders that a table of each format has."""
