"""The schema of a part: one row per clip in plain Arrow types, with the tokenizers in the metadata.

A tokenizer named N has a column `N` (the cells of one clip, little-endian, C order), `N_shape`, and
`N_logvar` if it stores one. Latents of 8 bits or fewer also have `N_scale` (`quantized`). Cells are
bytes beside a shape because clips of two buckets differ in shape, and Arrow's tensors are extension
types, which not every reader opens. The schema's metadata says how to read the bytes: as one JSON
value under `vidtok`, and as plain keys for people with a Parquet viewer.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Annotated, Any, Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, StringConstraints

from pipeline.dataset.format_version import FORMAT_VERSION, parse_versioned
from pipeline.dataset.side_columns import SideColumn
from pipeline.errors import ConfigError
from pipeline.records import to_json


def _is_one(value: int) -> bool:
    return value == 1


_STORED_AS: Final[dict[str, "np.dtype[Any]"]] = {
    "uint8": np.dtype("<u1"),
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4"),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype("<u2"),  # its bit pattern: NumPy has no bfloat16
}


CLIP_FIELDS: Final = (
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("unit", pa.string(), nullable=False),
    pa.field("key", pa.string(), nullable=False),
    pa.field("clip_index", pa.int32(), nullable=False),
    pa.field("start_s", pa.float64(), nullable=False),
    pa.field("end_s", pa.float64(), nullable=False),
    pa.field("source_fps", pa.float64(), nullable=False),
    pa.field("source_height", pa.int32(), nullable=False),
    pa.field("source_width", pa.int32(), nullable=False),
    pa.field("crop", pa.list_(pa.float32()), nullable=False),
    pa.field("num_frames", pa.int32(), nullable=False),
    pa.field("padded_frames", pa.int32(), nullable=False),
    pa.field("caption", pa.string()),
    pa.field("meta", pa.string()),
)
"""Columns of every part that come before those of the tokenizers."""


QUARANTINE_SCHEMA: Final = pa.schema(
    [
        pa.field("unit", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("clip_index", pa.int32()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ],
    metadata={"vidtok.format_version": str(FORMAT_VERSION)},
)
"""Schema of a quarantine table: one row per sample (`clip_index` null) or clip that was lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalize:
    """Normalisation of latents: x becomes (x - shift) * scale.

    Both have one value for each channel; or, in the order [channel, latent frame], one for each
    latent frame of each channel.
    """

    shift: tuple[float, ...]
    """Values that are subtracted, such as the channels' means."""

    scale: tuple[float, ...]
    """Factors, such as the inverse of the channels' standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerColumn:
    """One tokenizer of a dataset: what its column holds and what made it."""

    name: Annotated[str, StringConstraints(pattern=r"\A[a-z][a-z0-9_]*\z", max_length=256)]
    """Name of the column: lower-case letters, digits and `_`, beginning with a letter."""

    kind: Literal["indices", "latents", "embeddings"]
    """Kind of cells: `indices` for code indices, `latents` for posterior means, `embeddings` for
    text. `N_ids` holds the ids of a text's tokens beside its embedding."""

    dtype: Literal["uint8", "uint16", "uint32", "float16", "float32", "bfloat16"]
    """Type of a cell. Bytes are little-endian in C order."""

    axes: tuple[str, ...]
    """Names of the dimensions of `N_shape`: `("t", "h", "w")`, or `("c", "t", "h", "w")`; of
    embeddings `("n", "c")`, where n counts tokens and differs from row to row."""

    model: str
    """Name of the released model or of the checkpoint."""

    fingerprint: str
    """Hash of everything that changes the cells."""

    logvar: bool = False
    """Whether `N_logvar` holds the log-variance, in the mean's dtype and shape."""

    codebook_size: Annotated[int, Field(ge=1, le=1 << 32)] | None = None
    """Number of codes: indices are in [0, codebook_size). None for KL."""

    normalize: Normalize | None = None
    """Normalisation that the generator's authors apply. Stored latents are not normalised."""
    causal_factor: Annotated[int, Field(ge=1, le=1 << 16)] | None = None
    """Number of frames of the clip per latent frame of a causal tokenizer, f: the first 1 + k
    latent frames of 1 + f·n frames are those of the first 1 + f·k frames alone. None for others."""

    bits: Annotated[int, Field(ge=5, le=8)] | None = None
    """Bits of a cell of latents in `uint8`, which `N_scale` turns into numbers. None for others."""

    scale: Annotated[int, Field(ge=1, le=4, exclude_if=_is_one)] = 1
    """Divisor of the clip's height and width: the tokenizer gets the means of blocks of
    `scale` × `scale` pixels. JSON leaves out 1."""

    every: Annotated[int, Field(ge=1, exclude_if=_is_one)] = 1
    """Step through the clip's frames: the tokenizer gets the frames 0, `every`, 2·`every` and so
    on. JSON leaves out 1."""

    def input_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return frames, height and width that the tokenizer gets of a clip of this shape."""
        return -(-frames // self.every), height // self.scale, width // self.scale

    @property
    def input_text(self) -> str:
        """What the tokenizer gets of a clip, such as `1/2, every 2`; empty for all of it."""
        scale = f"1/{self.scale}" if self.scale > 1 else ""
        every = f"every {self.every}" if self.every > 1 else ""
        return ", ".join(filter(None, (scale, every)))

    @property
    def stored_dtype(self) -> "np.dtype[Any]":
        """NumPy type of the stored bytes; for bfloat16 the type of its bit patterns."""
        return _STORED_AS[self.dtype]

    def cell_bytes(self, shape: Sequence[int]) -> int:
        """Return the number of bytes of cells of this shape."""
        return prod(shape) * self.stored_dtype.itemsize

    @property
    def cell_columns(self) -> tuple[str, ...]:
        """Names of the cell columns: `N`, and `N_logvar` if it is stored."""
        return (self.name, f"{self.name}_logvar") if self.logvar else (self.name,)

    @property
    def scale_columns(self) -> tuple[str, ...]:
        """Names of the columns of scales: `N_scale` if `bits` are set, else none."""
        return () if self.bits is None else (f"{self.name}_scale",)


def index_dtype(codebook_size: int) -> Literal["uint8", "uint16", "uint32"]:
    """Return the smallest unsigned integer type that holds every index of a codebook."""
    if codebook_size < 1 or codebook_size > 1 << 32:
        raise ConfigError(f"codebook_size = {codebook_size}: must be in 1 … 2^32")
    return (
        "uint8" if codebook_size <= 1 << 8 else "uint16" if codebook_size <= 1 << 16 else "uint32"
    )


def clip_schema(
    tokenizers: Sequence[TokenizerColumn], side: Sequence[SideColumn] = ()
) -> pa.Schema:
    """Return the Arrow schema of every part of a dataset.

    Args:
        tokenizers: tokenizers, in the order of their columns.
        side: side columns, which come after them.

    Raises:
        ConfigError: two columns would have the same name.
    """
    fields = list(CLIP_FIELDS)
    plain = {"vidtok.format_version": str(FORMAT_VERSION)}
    for column in tokenizers:
        fields.append(pa.field(column.name, pa.binary(), nullable=False))
        fields.append(pa.field(f"{column.name}_shape", pa.list_(pa.int32()), nullable=False))
        if column.logvar:
            fields.append(pa.field(f"{column.name}_logvar", pa.binary(), nullable=False))
        if column.kind == "embeddings":
            ids = pa.list_(pa.int32())
            fields.append(pa.field(f"{column.name}_ids", ids, nullable=False))
        for name in column.scale_columns:
            fields.append(pa.field(name, pa.list_(pa.float32()), nullable=False))
            plain[f"vidtok.{column.name}.scale"] = name
            plain[f"vidtok.{column.name}.bits"] = str(column.bits)
        if column.input_text:
            plain[f"vidtok.{column.name}.input"] = column.input_text
        plain[f"vidtok.{column.name}.dtype"] = column.dtype
        plain[f"vidtok.{column.name}.axes"] = " ".join(column.axes)
        plain[f"vidtok.{column.name}.model"] = column.model
        plain[f"vidtok.{column.name}.fingerprint"] = column.fingerprint
        if column.normalize is not None:
            plain[f"vidtok.{column.name}.normalize"] = json.dumps(asdict(column.normalize))
    fields.extend(pa.field(column.name, column.type) for column in side)
    names = [field.name for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"tokenizers: two columns would be named {', '.join(twice)}; rename one")
    whole = {
        "format_version": FORMAT_VERSION,
        "tokenizers": [json.loads(to_json(column)) for column in tokenizers],
        **({"side": [asdict(column) for column in side]} if side else {}),
    }
    return pa.schema(fields, metadata={"vidtok": json.dumps(whole), **plain})


TEXT_COLUMNS: Final = ("caption", "meta")
"""Columns in which all clips of a sample repeat one text."""


def shared_cells(schema: pa.Schema) -> tuple[str, ...]:
    """Return the cell columns in which all clips of a sample repeat one value: embeddings."""
    columns = tokenizer_columns(schema)
    return tuple(column.name for column in columns if column.kind == "embeddings")


def packed_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of rows on their way to a part: each text once, however many rows have it.

    The same holds for the embeddings of texts.

    Args:
        schema: result of `clip_schema`.
    """
    for name in (*TEXT_COLUMNS, *shared_cells(schema)):
        index = schema.get_field_index(name)
        packed = pa.dictionary(pa.int32(), schema.field(index).type)
        schema = schema.set(index, schema.field(index).with_type(packed))
    return schema


@dataclass(frozen=True, slots=True)
class _Described:
    tokenizers: tuple[TokenizerColumn, ...]
    side: tuple[SideColumn, ...] = ()


def tokenizer_columns(schema: pa.Schema, where: str = "schema") -> tuple[TokenizerColumn, ...]:
    """Return the tokenizers that a schema from `clip_schema` describes, in column order.

    Args:
        schema: schema of a part.
        where: URI of the part, for errors.

    Raises:
        ConfigError: the part is of another format version.
        DamagedFile: the schema describes no tokenizers.
    """
    return _described(schema, where).tokenizers


def side_columns(schema: pa.Schema, where: str = "schema") -> tuple[SideColumn, ...]:
    """Return the side columns that a schema describes; as `tokenizer_columns`."""
    return _described(schema, where).side


def _described(schema: pa.Schema, where: str) -> _Described:
    data = (schema.metadata or {}).get(b"vidtok", b"")
    return parse_versioned(_Described, data, where, "the schema of a part")
