"""Writes a unit's rows of one bucket into Parquet parts, one row group in memory at a time.

A part is named `data/<bucket>/<unit>-<n>-<digest>.parquet`: 16 digits of the SHA-256 of its bytes
and 16 random ones. No name is written twice, so a name that the log drops is gone for good, even if
the writer or the deletion stood still for a day. Parts grow on local disk. They reach the store
only by `publish`, once the whole unit is known to be right.
"""

import hashlib
import posixpath
import re
import uuid
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from pipeline.dataset.parquet_file import parquet_writer, seal
from pipeline.dataset.records import Part
from pipeline.dataset.schema import (
    QUARANTINE_SCHEMA,
    TokenizerColumn,
    shared_cells,
    side_columns,
    tokenizer_columns,
)
from pipeline.dataset.shared_sizes import SharedSizes
from pipeline.quarantine import Quarantined
from pipeline.storage.store import StagedFile, Store

ROW_GROUP_BYTES: Final = 4 << 20
"""Size of a row group in memory: small enough to decode for one row, large enough for a request."""


MAX_PART_BYTES: Final = 256 << 20
"""Size of a file after which the next part begins: large for object stores, small for retries."""


MERGED_NAME: Final = re.compile(r"merged-[0-9a-f]{32}")
"""Pattern that replaces the unit in a merged part's name; no unit's id has this form."""


_ZSTD_LEVEL: Final = 3


_INDEX_LEVEL: Final = 19
"""Level for code indices: 17 % fewer bytes than level 3, for 5 ms of a core per 5,120 indices."""


_DICTIONARY_BYTES: Final = 1 << 30
"""Size up to which a dictionary is kept: above the distinct embeddings of any row group."""


def is_merged(path: str) -> bool:
    """Return whether a path is that of a merged part."""
    name = posixpath.basename(path)
    return MERGED_NAME.fullmatch(name.partition("-0-")[0]) is not None


def merged_name() -> str:
    """Return a unique name for a merged part."""
    return f"merged-{uuid.uuid4().hex}"


class PartWriter:
    """Writes rows of one unit and one bucket in their order; as a context manager it cleans up.

    Where row groups and parts end follows from the rows alone: from their size in memory and on
    disk.
    """

    def __init__(
        self,
        store: Store,
        schema: pa.Schema,
        *,
        unit: str,
        bucket: str,
        row_group_bytes: int = ROW_GROUP_BYTES,
        max_part_bytes: int = MAX_PART_BYTES,
    ) -> None:
        self._store = store
        self._schema = schema
        self._shared = SharedSizes(shared_cells(schema))
        self._folder = f"data/{bucket}"
        self._unit = unit
        self._bucket = bucket
        self._row_group_bytes = row_group_bytes
        self._max_part_bytes = max_part_bytes
        self._pending = schema.empty_table()
        self._files: list[_ParquetFile] = []

    def add(self, rows: pa.Table) -> None:
        """Add the next rows; writes the row groups that become full."""
        self._pending = pa.concat_tables([self._pending, rows])
        self._shared.add(rows)
        while count := self._full_group():
            self._write_group(self._pending.slice(0, count))
            self._pending = self._pending.slice(count)
            self._shared.drop(count)

    def _full_group(self) -> int:
        """Return the number of pending rows that fill a row group; 0 if they do not."""
        if self._shared.names:
            return self._shared.full(self._row_group_bytes)
        if not self._pending.num_rows or self._pending.nbytes < self._row_group_bytes:
            return 0
        row_bytes = self._pending.nbytes / self._pending.num_rows
        return max(1, int(self._row_group_bytes / row_bytes))

    def publish(self) -> tuple[Part, ...]:
        """Write pending rows, put all parts into the store, return their records."""
        if self._pending.num_rows:
            self._write_group(self._pending)
        return tuple(
            file.publish(f"{self._folder}/{self._unit}-{n}", self._bucket)
            for n, file in enumerate(self._files)
        )

    def discard(self) -> None:
        """Delete the files that were not published."""
        for file in self._files:
            file.discard()

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()

    def _write_group(self, rows: pa.Table) -> None:
        if not self._files or self._files[-1].bytes >= self._max_part_bytes:
            if self._files:
                self._files[-1].close()
            staged = self._store.stage(self._folder)
            columns = tokenizer_columns(self._schema)
            sounds = [c.name for c in side_columns(self._schema) if c.holds == "sound"]
            self._files.append(_ParquetFile(staged, self._schema, columns, sounds))
        self._files[-1].write_group(rows)


def write_quarantine(store: Store, unit: str, records: Sequence[Quarantined]) -> Part | None:
    """Write a unit's quarantine table, in the order given; None if there are no records."""
    if not records:
        return None
    columns = {
        name: [getattr(record, name) for record in records] for name in QUARANTINE_SCHEMA.names
    }
    file = _ParquetFile(store.stage("quarantine"), QUARANTINE_SCHEMA)
    try:
        file.write_group(pa.Table.from_pydict(columns, schema=QUARANTINE_SCHEMA))
        return file.publish(f"quarantine/{unit}", bucket="")
    finally:
        file.discard()


class _ParquetFile:
    """One Parquet file under construction.

    Latents and embeddings are not compressed, unless latents have fewer than 8 bits: it would save
    8 % of the latents' bytes and cost readers two thirds of their time. Code indices shrink to a
    third.

    Args:
        staged: the file.
        schema: schema of the rows.
        tokenizers: tokenizers and text encoders of its cells; a dictionary holds the embeddings.
        sounds: names of the columns of sound, which its own codec has compressed.
    """

    def __init__(
        self,
        staged: StagedFile,
        schema: pa.Schema,
        tokenizers: Sequence[TokenizerColumn] = (),
        sounds: Sequence[str] = (),
    ) -> None:
        self._staged = staged
        self._rows = 0
        binary = {field.name for field in schema if field.type == pa.binary()}
        plain = [f.name for f in schema if f.name not in binary and not pa.types.is_list(f.type)]
        lists = [f"{f.name}.list.element" for f in schema if pa.types.is_list(f.type)]
        floats = [c for c in tokenizers if c.kind != "indices" and (c.bits or 8) == 8]
        bare = [*(name for column in floats for name in column.cell_columns), *sounds]
        indices = [column.name for column in tokenizers if column.kind == "indices"]
        shared = [column.name for column in tokenizers if column.kind == "embeddings"]
        packed = [name for name in (*plain, *lists, *binary) if name not in bare]
        self._writer = parquet_writer(
            staged.file,
            schema,
            compression=dict.fromkeys(packed, "zstd") | dict.fromkeys(bare, "none"),
            compression_level=dict.fromkeys(packed, _ZSTD_LEVEL)
            | dict.fromkeys(indices, _INDEX_LEVEL),
            # Other cells neither repeat nor sort: a dictionary, or their min and max, would be
            # useless.
            use_dictionary=[*plain, *lists, *shared],
            dictionary_pagesize_limit=_DICTIONARY_BYTES if shared else None,
            write_statistics=plain,
        )

    @property
    def bytes(self) -> int:
        return self._staged.file.tell()

    def write_group(self, rows: pa.Table) -> None:
        self._writer.write_table(rows.combine_chunks(), row_group_size=rows.num_rows)
        self._rows += rows.num_rows

    def close(self) -> None:
        self._writer.close()

    def publish(self, prefix: str, bucket: str) -> Part:
        """Put the file into the store under `<prefix>-<digest and random digits>.parquet`."""
        self.close()
        seal(self._staged.file)
        size = self.bytes
        self._staged.file.seek(0)
        digest = hashlib.file_digest(self._staged.file, "sha256").hexdigest()
        path = f"{prefix}-{digest[:16]}{uuid.uuid4().hex[:16]}.parquet"
        self._staged.publish(path)
        return Part(path=path, bucket=bucket, rows=self._rows, bytes=size, sha256=digest)

    def discard(self) -> None:
        self._writer.close()
        self._staged.discard()
