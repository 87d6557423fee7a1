"""A dataset as an Iceberg table: its metadata in `iceberg/`, readable without a catalog.

    iceberg/metadata/v<n>.metadata.json    version n; putting it if absent is the commit
    iceberg/metadata/version-hint.text     the newest n, for readers that are given the folder
    iceberg/metadata/*.avro                the files of a version

These are the names of Iceberg's own file system catalog. Iceberg requires full URIs of files, so a
copied dataset must be published again.
"""

import io
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import pyarrow as pa
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.fsspec import FsspecFileIO, FsspecOutputFile
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.table import CommitTableResponse, Table
from pyiceberg.table.metadata import TableMetadata, TableMetadataUtil, new_table_metadata
from pyiceberg.table.sorting import UNSORTED_SORT_ORDER
from pyiceberg.table.update import update_table_metadata
from pyiceberg.typedef import Record

from pipeline.errors import ConfigError
from pipeline.operations.publish.table import table_errors
from pipeline.operations.shared_file import SharedFile
from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store

_FOLDER: Final = "iceberg"


_METADATA: Final = re.compile(rf"{_FOLDER}/metadata/v(\d+)\.metadata\.json")


_LOG_NUMBER: Final = "vidtok.log_number"


_errors = partial(table_errors, name="Iceberg", conflict=CommitFailedException)


class Iceberg:
    """An Iceberg table; see `pipeline.operations.publish.table.TableFormat`.

    Raises:
        ConfigError: the table was published when the dataset was at another place.
        StoreError: the table cannot be read.
    """

    def __init__(self, store: Store, schema: pa.Schema) -> None:
        root = canonical_uri(store.uri, store.storage_options)
        self._root = f"file://{root}" if root.startswith("/") else root
        self.uri = f"{self._root}/{_FOLDER}"
        with _errors(self.uri):
            matches = map(_METADATA.fullmatch, store.list(_FOLDER))
            numbers = [int(match[1]) for match in matches if match]
            self.version = max(numbers, default=None)
            if self.version is None:
                metadata, location = _new_metadata(self.uri, schema), ""
            else:
                path = _metadata_path(self.version)
                metadata = TableMetadataUtil.parse_raw(store.read(path).decode())
                location = f"{self._root}/{path}"
            if metadata.location != self.uri:
                raise ConfigError(
                    f"{self.uri}: this table was published at {metadata.location}, and Iceberg"
                    f" names files by full URIs; delete the folder {_FOLDER} and publish again"
                )
            catalog = _Folder(store, self._root)
            self._table = Table(
                (_FOLDER,), metadata, location, _StoreIO(store, self._root), catalog
            )
            self._files: dict[str, DataFile] = {
                task.file.file_path.removeprefix(f"{self._root}/"): task.file
                for task in self._table.scan().plan_files()
            }
        self.paths = frozenset(self._files)

    def commit(self, added: Sequence[SharedFile], removed: Sequence[str], number: int) -> None:
        """See `pipeline.operations.publish.table.TableFormat`."""
        with _errors(self.uri), self._table.transaction() as transaction:
            update = transaction.update_snapshot({_LOG_NUMBER: str(number)})
            # An append also merges the small manifests of earlier appends.
            with update.overwrite() if removed else update.merge_append() as snapshot:
                for path in removed:
                    snapshot.delete_data_file(self._files[path])
                for file in added:
                    snapshot.append_data_file(self._data_file(file))
        self.version = (self.version or 0) + 1

    def _data_file(self, file: SharedFile) -> DataFile:
        unit = self._table.schema().find_field("unit").field_id
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=f"{self._root}/{file.part.path}",
            file_format=FileFormat.PARQUET,
            partition=Record(),
            record_count=file.rows,
            file_size_in_bytes=file.part.bytes,
            lower_bounds={unit: min(file.units).encode()},
            upper_bounds={unit: max(file.units).encode()},
        )


class _Folder(NoopCatalog):  # type: ignore[misc]
    """A catalog of one table, whose versions are the numbered files of a folder."""

    def __init__(self, store: Store, root: str) -> None:
        super().__init__(_FOLDER)
        self._store = store
        self._root = root

    def commit_table(
        self, table: Table, requirements: tuple[Any, ...], updates: tuple[Any, ...]
    ) -> CommitTableResponse:
        """Put the next version's metadata.

        Raises:
            CommitFailedException: another process put this version.
            StoreError: the store refuses, or does not answer.
        """
        before = table.metadata_location
        match = _METADATA.fullmatch(before.removeprefix(f"{self._root}/"))
        number = int(match[1]) + 1 if match else 1
        metadata = update_table_metadata(table.metadata, updates, metadata_location=before or None)
        path, data = _metadata_path(number), metadata.model_dump_json().encode()
        if self._store.put_or_read(path, data) != data:
            raise CommitFailedException(f"version {number} exists already")
        self._store.write(f"{_FOLDER}/metadata/version-hint.text", str(number).encode())
        return CommitTableResponse(
            metadata=metadata, **{"metadata-location": f"{self._root}/{path}"}
        )


class _StoreIO(FsspecFileIO):  # type: ignore[misc]
    """The library's access to files, with the store's credentials and atomic writes."""

    def __init__(self, store: Store, root: str) -> None:
        super().__init__({})
        self._store = store
        self._root = root

    def get_fs(self, scheme: str, hostname: str | None = None) -> Any:
        return self._store.filesystem()

    def new_output(self, location: str) -> FsspecOutputFile:
        return _Output(location, self._store, location.removeprefix(f"{self._root}/"))


class _Output(FsspecOutputFile):  # type: ignore[misc]
    """A file that is written atomically, before the version that names it."""

    def __init__(self, location: str, store: Store, path: str) -> None:
        super().__init__(location, store.filesystem())
        self._write = partial(store.write, path)

    def create(self, overwrite: bool = False) -> "_Buffer":
        return _Buffer(self._write)


class _Buffer(io.BytesIO):
    """A buffer that is written to the store when it is closed."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._write = write

    def close(self) -> None:
        if not self.closed:
            self._write(self.getvalue())
        super().close()


def _new_metadata(location: str, schema: pa.Schema) -> TableMetadata:
    """Return the metadata of a table without a version; nothing is stored yet."""
    properties = {key.decode(): text.decode() for key, text in schema.metadata.items()}
    # No retry: it would commit this state of the log after a newer one.
    properties["commit.retry.num-retries"] = "0"
    metadata = new_table_metadata(
        Catalog._convert_schema_if_needed(schema),
        UNPARTITIONED_PARTITION_SPEC,
        UNSORTED_SORT_ORDER,
        location,
        properties,
    )
    # Parts have no field ids of Iceberg, so readers match columns by name.
    names = metadata.schema().name_mapping.model_dump_json()
    return metadata.model_copy(
        update={"properties": {**metadata.properties, "schema.name-mapping.default": names}}
    )


def _metadata_path(number: int) -> str:
    return f"{_FOLDER}/metadata/v{number}.metadata.json"
