"""A dataset as a Delta table: `_delta_log/` at its root, with relative paths.

Every reader supports relative paths, and the table remains valid when the dataset is copied. But to
Delta's VACUUM, all files at the root that are not in the table are garbage: log, manifests, and
unpublished parts. So the retention of the table is a century, which VACUUM respects unless a user
disables its check.
"""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from pipeline.errors import StoreError, one_line
from pipeline.operations.publish.table import WholeFile
from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store

_APPLICATION: Final = "vidtok"
"""Application id of the transactions; their version is the number of a log record."""


_RETENTION: Final = "interval 36500 days"


_COLOURS: Final = re.compile(r"\x1b\[[\d;]*m")


class Delta:
    """A Delta table; see `pipeline.operations.publish.table.TableFormat`.

    Raises:
        StoreError: the table cannot be read.
    """

    def __init__(self, store: Store, schema: pa.Schema) -> None:
        self.uri = canonical_uri(store.uri, store.storage_options)
        self.version: int | None = None
        self.paths: frozenset[str] = frozenset()
        self._schema = schema
        self._options = storage_options(store)
        self._table: DeltaTable | None = None
        with _delta_errors(self.uri), suppress(TableNotFoundError):
            self._table = DeltaTable(self.uri, storage_options=self._options)
            self.version = self._table.version()
            held = pa.table(self._table.get_add_actions())
            self.paths = frozenset(held["path"].to_pylist())

    def commit(self, added: Sequence[WholeFile], removed: Sequence[str], number: int) -> None:
        """See `pipeline.operations.publish.table.TableFormat`."""
        now = int(time.time() * 1000)
        with _delta_errors(self.uri):
            table = self._table or self._created()
            table.create_write_transaction(
                [
                    *(AddAction(f.path, f.bytes, {}, now, True, _statistics(f)) for f in added),
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


def _statistics(file: WholeFile) -> str:
    return json.dumps(
        {
            "numRecords": file.rows,
            "minValues": {"unit": file.first_unit},
            "maxValues": {"unit": file.last_unit},
            "nullCount": {"unit": 0},
        }
    )


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


@contextmanager
def _delta_errors(where: str) -> Iterator[None]:
    try:
        yield
    except CommitFailedError as error:
        raise StoreError(
            f"{where}: another commit of the Delta table came first ({_line(error)}); run the"
            " command again"
        ) from error
    except (DeltaError, OSError) as error:
        raise StoreError(f"{where}: Delta table: {_line(error)}") from error


def _line(error: Exception) -> str:
    return _COLOURS.sub("", one_line(error))
