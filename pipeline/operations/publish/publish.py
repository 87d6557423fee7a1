"""Publishes a dataset as a table of Delta Lake or Apache Iceberg, without copying its parts.

    manifest ─► whole files ─► files to add to the table, and files to remove from it
                               ─► announcement in the log
                               ─► one commit of the table, by the format's own library

A table has the columns of the parts. The bucket is not a column: both formats allow a column that
is only in the table's log, but several readers return null for it, and a filter finds nothing.

The table is opened before the manifest is read, and its commit fails if another one came in
between. So a table never returns to an older state of the log.

The announcement keeps `vacuum` from the files until the table has a newer version than the one that
was opened. Then this commit was made, or it fails. So a table never names a file that is gone,
however long this process stands still before the commit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import Manifest, read_manifest
from pipeline.dataset.metadata import Dataset, read_dataset
from pipeline.dataset.records import Publication
from pipeline.errors import ConfigError, StoreError
from pipeline.formatting import counted, labelled
from pipeline.operations.outcome import Outcome
from pipeline.operations.publish.table import TableFormat
from pipeline.operations.shared_file import SharedFile, shared_files
from pipeline.storage.store import Store, StoredFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Published(Outcome):
    """State of a table after publishing."""

    output: str
    format: str
    table: str
    """URI of the table for readers."""
    version: int
    """Version of the table."""
    log_number: int
    """Number of the newest log record that the table includes."""
    files: int
    rows: int
    added: int
    """Number of files that the previous version did not have."""
    removed: int
    """Number of files that only the previous version had."""
    changed: bool
    """Whether this call made the version."""

    def lines(self) -> list[str]:
        """Return the lines to print."""
        change = f"{counted(self.added, 'file')} added, {self.removed} removed"
        held = f"{counted(self.files, 'file')} · {counted(self.rows, 'row')}"
        return [
            labelled("table", f"{self.table} · {self.format}"),
            labelled("holds", f"{held} · log up to record {self.log_number}"),
            labelled("version", f"{self.version}: {change if self.changed else 'unchanged'}"),
        ]


def publish(store: Store, table_format: str) -> Published:
    """Make a table hold the parts that count now, in one new version if it needs one.

    Args:
        store: the dataset's root; put-if-absent is needed.
        table_format: `delta` or `iceberg`.

    Raises:
        ConfigError: there is no dataset or no such format, or its library is not installed.
        StoreError: a part has rows that no longer count, another commit of the table came first,
            the log is damaged, or the store refuses. The table does not change.
    """
    if table_format not in _FORMATS:
        raise ConfigError(
            f"--format {table_format}: no such table format; use {' or '.join(_FORMATS)}"
        )
    dataset = read_dataset(store)
    store.require_put_if_absent()
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="publish")
    table = open_table(table_format, store, dataset.schema)
    announced = False
    while not announced:
        manifest = read_manifest(store)
        files = _whole_files(store, manifest)
        paths = {file.part.path for file in files}
        removed = sorted(table.paths - paths)
        added = [file for file in files if file.part.path not in table.paths]
        changed = bool(added or removed or table.version is None)
        state = Publication(format=table_format, base=table.version or 0, number=manifest.number)
        announced = not changed or log.announce(state, paths)
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


def published_files(
    store: Store, dataset: Dataset, files: Iterable[StoredFile], manifest: Manifest
) -> set[str]:
    """Return the paths that the dataset's tables name, or that their next version can name.

    Args:
        store: the dataset's root.
        dataset: its metadata.
        files: listing of the store.
        manifest: state of the log, with announced tables.

    Raises:
        ConfigError: a table's library is not installed.
        StoreError: a table cannot be read.
    """
    found = {
        name for file in files for name, start in _FORMATS.items() if file.path.startswith(start)
    }
    schema = dataset.schema
    tables = {name: open_table(name, store, schema) for name in found}
    paths = set[str]().union(*(table.paths for table in tables.values()))
    for state in manifest.publications:
        table = tables.get(state.format)
        if table is None or (table.version or 0) <= state.base:
            paths.update(part.path for part in read_manifest(store, state.number).parts())
    return paths


def _whole_files(store: Store, manifest: Manifest) -> list[SharedFile]:
    """Return the files of the parts that count, each once, in the order of commits.

    Raises:
        StoreError: a file has rows that no longer count, and a table can only include whole files.
    """
    files = shared_files(manifest)
    for file in files:
        if left_out := file.rows_left_out:
            raise StoreError(
                f"{store.locate(file.part.path)}: {left_out} of its {file.rows + left_out} rows no"
                " longer count, because they were forgotten or their unit was processed again, and"
                " a table includes whole files; run `python -m pipeline compact`, then this command"
                " again"
            )
    return files


def open_table(table_format: str, store: Store, schema: pa.Schema) -> TableFormat:
    """Open a table at its newest version.

    Raises:
        ConfigError: the format's library is not installed.
        StoreError: the table cannot be read.
    """
    try:
        if table_format == "delta":
            from pipeline.operations.publish.delta import Delta

            return Delta(store, schema)
        from pipeline.operations.publish.iceberg import Iceberg

        return Iceberg(store, schema)
    except ImportError as error:
        raise ConfigError(
            f"{table_format} table: {error}; install the extra: vidtok-pipeline[publish]"
        ) from error


_FORMATS: Final = {"delta": "_delta_log/", "iceberg": "iceberg/metadata/"}
"""Folder by which a table is recognized, by format."""
