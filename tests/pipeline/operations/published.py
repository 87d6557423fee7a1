"""Rows of a published table, as its library reads them."""

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.log.manifest import read_manifest
from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store
from tests.lazy import deltalake, tables

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyiceberg.table import StaticTable

FORMATS = ["delta", "iceberg"]


def delta(store: Store, version: int | None = None) -> "DeltaTable":
    from pipeline.operations.publish.delta import storage_options

    root = canonical_uri(store.uri, store.storage_options)
    return deltalake.DeltaTable(root, version, storage_options=storage_options(store))


def iceberg(store: Store) -> "StaticTable":
    names = {
        "s3.endpoint": "endpoint_url",
        "s3.access-key-id": "key",
        "s3.secret-access-key": "secret",
    }
    options = store.storage_options
    properties = {name: options[key] for name, key in names.items() if key in options}
    properties["s3.region"] = "us-east-1"  # without one it is asked for over the network
    return tables.StaticTable.from_metadata(store.locate("iceberg"), properties)


def table_rows(store: Store, table_format: str) -> pa.Table:
    """Return a table's rows as the format's own library reads them."""
    if table_format == "iceberg":
        return iceberg(store).scan().to_arrow()
    return delta(store).to_pyarrow_dataset().to_table()


def plain_rows(store: Store) -> pa.Table:
    """Return the rows of all files that the manifest names."""
    paths = dict.fromkeys(part.path for part in read_manifest(store).parts())
    return pa.concat_tables(pq.read_table(pa.BufferReader(store.read(p))) for p in paths)


def same(found: pa.Table, wanted: pa.Table) -> bool:
    """Return whether tables hold the same rows and columns, in whatever order."""
    assert found.column_names == wanted.column_names
    ours, theirs = (
        table.sort_by("clip_id").cast(wanted.schema.remove_metadata()) for table in (found, wanted)
    )
    return bool(ours.equals(theirs))
