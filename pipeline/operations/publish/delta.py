"""A dataset as a Delta table: `_delta_log/` at its root, with relative paths.

Every reader supports relative paths, and the table remains valid when the dataset is copied. But to
Delta's VACUUM, all files at the root that are not in the table are garbage: log, manifests, and
unpublished parts. So the retention of the table is a century, which VACUUM respects unless a user
disables its check.
"""

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from pipeline.operations.publish.table import table_errors
from pipeline.operations.shared_file import SharedFile
from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store

_APPLICATION: Final = "vidtok"
"""Application id of the transactions; their version is the number of a log record."""


_RETENTION: Final = "interval 36500 days"


_errors = partial(table_errors, name="Delta", conflict=CommitFailedError, other=DeltaError)


class Delta:
    """A Delta table; see `pipeline.operations.publish.table.TableFormat`.

    Raises:
        StoreError: the table cannot be read.
    """

    def __init__(self, store: Store, schema: pa.Schema) -> None:
        self.uri = canonical_uri(store.uri, store.storage_options)
        self.version: int | None = None
        self.paths: frozenset[str] = frozenset()
        self._schema = _signed(schema)
        self._options = storage_options(store)
        self._table: DeltaTable | None = None
        with _errors(self.uri), suppress(TableNotFoundError):
            self._table = DeltaTable(self.uri, storage_options=self._options)
            self.version = self._table.version()
            held = pa.table(self._table.get_add_actions())
            self.paths = frozenset(held["path"].to_pylist())

    def commit(self, added: Sequence[SharedFile], removed: Sequence[str], number: int) -> None:
        """See `pipeline.operations.publish.table.TableFormat`."""
        now = int(time.time() * 1000)
        with _errors(self.uri):
            table = self._table or self._created()
            table.create_write_transaction(
                [
                    *(_add(file, now) for file in added),
                    *(RemoveAction(path, True, now) for path in removed),
                ],
                "append",
                Schema.from_arrow(self._schema),
                commit_properties=CommitProperties(
                    # No retry: it would commit this state of the log after a newer one.
                    max_commit_retries=0,
                    app_transactions=[Transaction(_APPLICATION, number)],
                ),
            )
            self.version = table.version() + 1

    def _created(self) -> DeltaTable:
        """Create an empty table: the library adds files to existing tables only."""
        properties = {key.decode(): text.decode() for key, text in self._schema.metadata.items()}
        try:
            DeltaTable.create(
                self.uri,
                self._schema,
                configuration={**properties, "delta.deletedFileRetentionDuration": _RETENTION},
                storage_options=self._options,
                raise_if_key_not_exists=False,
            )
        except DeltaError as error:
            with suppress(TableNotFoundError):
                DeltaTable(self.uri, storage_options=self._options)
                raise CommitFailedError(str(error)) from error
            raise
        # Open version 0, because another process may have committed the next one by now.
        return DeltaTable(self.uri, version=0, storage_options=self._options)


def _signed(schema: pa.Schema) -> pa.Schema:
    """Return a schema with int16 in place of uint8, the only unsigned type of a dataset's columns.

    Delta has no unsigned types. Its library turns them into signed types of the same width, into
    which some readers do not cast.
    """
    for n, field in enumerate(schema):
        if field.type == pa.uint8():
            schema = schema.set(n, field.with_type(pa.int16()))
    return schema


def _add(file: SharedFile, now: int) -> AddAction:
    """Return the action that adds a file. Readers of one unit skip files by the bounds of units."""
    statistics = {
        "numRecords": file.rows,
        "minValues": {"unit": min(file.units)},
        "maxValues": {"unit": max(file.units)},
        "nullCount": {"unit": 0},
    }
    return AddAction(file.part.path, file.part.bytes, {}, now, True, json.dumps(statistics))


def storage_options(store: Store) -> dict[str, str]:
    """Return the options of the Delta library that correspond to a store's options for s3fs."""
    given = {**store.storage_options.get("client_kwargs", {}), **store.storage_options}
    given.setdefault(
        "endpoint_url", os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL"))
    )
    names = {
        "key": "aws_access_key_id",
        "secret": "aws_secret_access_key",
        "token": "aws_session_token",
        "region_name": "aws_region",
        "endpoint_url": "aws_endpoint_url",
    }
    options = {names[key]: str(value) for key, value in given.items() if value and key in names}
    if options.get("aws_endpoint_url", "").startswith("http://"):
        options["aws_allow_http"] = "true"
    return options
