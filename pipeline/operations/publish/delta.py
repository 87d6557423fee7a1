"""A dataset as a Delta table: `_delta_log/` at its root, with paths relative to it.

Relative paths are what every reader knows, and the table stays right when the dataset is copied. At
the root, though, everything that is no part of the table looks like garbage to a VACUUM of Delta's:
log, manifests, parts that are not published yet. So the table's retention is a century, which
VACUUM heeds unless its check is turned off by hand.
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

from pipeline.errors import StoreError, redacted
from pipeline.operations.publish.table import WholeFile
from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store

_APPLICATION: Final = "vidtok"
"""Whose transactions they are; their version is the number of the log's last record."""


_RETENTION: Final = "interval 36500 days"


_COLOURS: Final = re.compile(r"\x1b\[[\d;]*m")


class Delta:
    """See `pipeline.operations.publish.table.TableFormat`.

    Raises:
        StoreError: the table cannot be read.
    """

    def __init__(self, store: Store, schema: pa.Schema) -> None:
        self.uri = canonical_uri(store.uri, store.storage_options)
        self.version: int | None = None
        self.paths: frozenset[str] = frozenset()
        self._schema = schema
        self._options = _storage_options(store)
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
                    # No second try: it would put this state of the log after a newer one.
                    max_commit_retries=0,
                    app_transactions=[Transaction(_APPLICATION, number)],
                ),
            )
            self.version = table.version() + 1

    def _created(self) -> DeltaTable:
        """Make the table without files: the library adds files to existing ones only."""
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
        # Of this version, since somebody else may have made the next one already.
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


def _storage_options(store: Store) -> dict[str, str]:
    """Return what the library needs beside the environment, from what s3fs would be given."""
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
    return redacted(" ".join(_COLOURS.sub("", str(error)).split()))
