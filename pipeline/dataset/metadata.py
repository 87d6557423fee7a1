"""`dataset.json`: the head of a dataset, written once; every later run must have its fingerprint.

The fingerprint is a hash of everything that changes the tokens (`identity`). The identity is
stored beside it, so that a mismatch can say what differs instead of showing two hashes.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, Field

from pipeline.dataset.format_version import (
    FORMAT_VERSION,
    RESTORE,
    damage_refused,
    parse_versioned,
    versioned_json,
)
from pipeline.dataset.schema import TokenizerColumn, clip_schema, index_dtype
from pipeline.dataset.side_columns import SideColumn, side_of, token_columns
from pipeline.errors import ConfigError, DamagedFile, DatasetMismatch
from pipeline.records import Bucket
from pipeline.storage.store import Store

PATH: Final = "dataset.json"


_ABSENT: Final = "(absent)"


_TOLERANCE = 1e-3
"""Difference of two values, as a fraction of their root mean square, that other processors and
kernels can cause in float32."""

_EXCEPTIONS = 2
"""Number of values that can differ more: rounding can move a code by one level."""


_Pixels = Annotated[int, Field(ge=1, le=1 << 16)]
_Rate = Annotated[float, Field(gt=0, le=1000)] | None
_Rates = _Rate | Annotated[list[_Rate], Field(min_length=1)]


class _Shape(BaseModel):
    frames: Annotated[int, Field(ge=1, le=1 << 30)] = 1
    height: _Pixels
    width: _Pixels


class _OneShape(_Shape):
    fps: _Rates
    buckets: None = None


class _Shapes(BaseModel):
    fps: _Rates
    buckets: Annotated[list[_Shape], Field(min_length=1)]


class _Facts(BaseModel):
    """What readers take from `pipeline.tokenizers.protocol.Facts`."""

    kind: Literal["indices", "latents"]
    channels: Annotated[int, Field(ge=1, le=1 << 16)]
    codebook_size: int | None
    levels: list[Annotated[int, Field(ge=2, le=1 << 16)]]


class _Tokenizer(BaseModel):
    weights: str
    facts: _Facts


class _SoundEncoder(BaseModel):
    model: str
    weights: str
    dtype: Literal["uint8", "uint16", "uint32", "float32"]
    rows: Annotated[int, Field(ge=1, le=1 << 16)]


class _Audio(BaseModel):
    codec: Literal["flac", "opus", "pcm16"]
    rate: Annotated[int, Field(ge=1, le=1 << 20)]
    channels: Annotated[int, Field(ge=1, le=8)]
    encoders: dict[str, _SoundEncoder] = {}


class _Track(BaseModel):
    name: Annotated[str, Field(pattern=r"\A[a-z][a-z0-9_]*\z", max_length=256)]


class _Identity(BaseModel):
    """What readers take from an identity; the rest only has to be equal in the next run."""

    clip: _OneShape | _Shapes
    tokenizers: dict[str, _Tokenizer]
    audio: _Audio | None = None
    tracks: list[_Track] = []


class Digest(NamedTuple):
    """What must be the same wherever a tokenizer runs."""

    weights: str
    """Digest of the tensors. With `channels`: `A+B`, where B is that of the channels file."""
    probe: tuple[float, ...] = ()
    """Values of a fixed clip's latent. Empty for VidTok, whose arithmetic is this package's."""

    @property
    def tensors(self) -> str:
        """Digest of the tensors alone, as a channels file and `vidtok.digest` have it."""
        return self.weights.partition("+")[0]

    def moved(self, now: "Digest") -> str | None:
        """Return in words how another probe differs; None if it does by rounding alone."""
        if len(self.probe) != len(now.probe):
            return f"{len(now.probe)} values of the fixed clip, not {len(self.probe)}"
        squares = sum(value * value for value in self.probe)
        allowed = _TOLERANCE * math.sqrt(squares / max(1, len(self.probe)))
        gaps = [abs(a - b) for a, b in zip(self.probe, now.probe, strict=True)]
        count = sum(not gap <= allowed for gap in gaps)  # a NaN counts
        if count <= _EXCEPTIONS:
            return None
        return f"{count} of {len(gaps)} values of the fixed clip differ, by up to {max(gaps):.3g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The head of a dataset."""

    fingerprint: str
    """Hash of the identity: `fingerprint_of(identity)`."""
    tokenizers: tuple[TokenizerColumn, ...]
    """Tokenizers, in the order of their columns."""
    identity: dict[str, Any]
    """Everything that changes the tokens, as JSON."""
    config: dict[str, Any] = field(default_factory=dict)
    """Configuration of the run that made the dataset, for people; credentials are blanked."""
    probes: dict[str, list[float]] = field(default_factory=dict)
    """Values of a fixed clip's latent, by tokenizer of another package: they show a library that
    computes other numbers. No part of the fingerprint, because processors round differently."""
    columns: dict[str, str] = field(default_factory=dict)
    """Arrow types of the parts' columns by name, for people; follow from `tokenizers`."""
    format_version: int = FORMAT_VERSION
    """Version of the format."""

    def digest(self, name: str) -> Digest:
        """Return the digest of the tokenizer of a column."""
        made_by = {**self.identity["tokenizers"], **self.identity.get("embedders", {})}
        weights: str = made_by[name]["weights"]
        return Digest(weights, tuple(self.probes.get(name, ())))

    def token_numbers(self, name: str) -> tuple[str, ...]:
        """Return the columns of numbers that a tokenizer gives for each clip beside its cells."""
        made_by = self.identity.get("tokenizers", {}).get(name, {})
        return tuple(column.name for column in token_columns({name: made_by}))

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Shapes of its clips, in the order of the settings."""
        clip = self.identity["clip"]
        return tuple(
            Bucket(frames=shape.get("frames", 0), height=shape["height"], width=shape["width"])
            for shape in clip.get("buckets", (clip,))
        )

    @property
    def side(self) -> tuple[SideColumn, ...]:
        """Columns of what lies beside the frames, such as sound."""
        return side_of(self.identity)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of its parts."""
        return clip_schema(self.tokenizers, self.side)


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return 32 hex digits that depend on every value of a JSON-like mapping."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def code_levels(identity: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the levels of the channels of each FSQ tokenizer in an identity, by its name."""
    levels = {
        name: tuple(tokenizer["facts"]["levels"])
        for name, tokenizer in identity["tokenizers"].items()
    }
    return {name: counts for name, counts in levels.items() if counts}


def new_dataset(
    tokenizers: tuple[TokenizerColumn, ...],
    identity: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    probes: Mapping[str, list[float]] | None = None,
) -> Dataset:
    """Return the head of a dataset; its fingerprint and columns follow from the arguments.

    Args:
        tokenizers: tokenizers, in the order of their columns.
        identity: everything that changes the tokens.
        config: settings without credentials, from `Section.public`.
        probes: values of a fixed clip, by tokenizer of another package.
    """
    schema = clip_schema(tokenizers, side_of(identity))
    return Dataset(
        fingerprint=fingerprint_of(identity),
        tokenizers=tokenizers,
        identity=json.loads(json.dumps(identity)),
        config=json.loads(json.dumps(config or {})),
        probes=dict(probes or {}),
        columns={column.name: str(column.type) for column in schema},
    )


def read_dataset(store: Store) -> Dataset:
    """Read the head of a dataset.

    Raises:
        ConfigError: there is no dataset, or it is of another format version.
        DamagedFile: `dataset.json` is damaged.
    """
    try:
        data = store.read(PATH)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{store.uri}: no dataset: {PATH} is missing; give the output.uri of a job"
        ) from error
    return _parse(data, store)


def open_dataset(store: Store, dataset: Dataset) -> Dataset:
    """Write the head if there is none, else check that this run may continue the dataset.

    Returns:
        The head that is stored.

    Raises:
        DatasetMismatch: the fingerprints differ; the text names every value that differs.
    """
    stored = _parse(store.put_or_read(PATH, versioned_json(dataset)), store)
    require_same(store, stored, dataset)
    return stored


def require_same(store: Store, stored: Dataset, dataset: Dataset) -> None:
    """Check that a run may continue the dataset that is stored.

    Raises:
        DatasetMismatch: the fingerprints differ; the text names every value that differs.
    """
    if stored.fingerprint != dataset.fingerprint:
        lines = "".join(
            f"\n  {name}: {then} in the dataset, {now} in this run"
            for name, then, now in differences(stored.identity, dataset.identity)
        )
        raise DatasetMismatch(
            f"output = {store.uri}: holds a dataset of fingerprint {stored.fingerprint}, this"
            f" run has {dataset.fingerprint}; write to another output, or undo:{lines}"
        )
    if stored.tokenizers != dataset.tokenizers:
        raise DatasetMismatch(
            f"output = {store.uri}: fingerprint {stored.fingerprint} is that of this run, but the"
            f" tokenizers' columns differ: {_names(stored)} there, {_names(dataset)} here; list the"
            " tokenizers in the order of the dataset, or write to another output"
        )
    for name in (c.name for c in stored.tokenizers if c.kind != "embeddings"):
        if how := stored.digest(name).moved(dataset.digest(name)):
            raise DatasetMismatch(
                f"output = {store.uri}: probes.{name}: {how}: weights and settings are those of the"
                " dataset, but the library computes other numbers; install the version that the"
                " dataset was made with, or write to another output"
            )


def _parse(data: bytes, store: Store) -> Dataset:
    where, what = store.locate(PATH), "the head of a dataset"
    dataset = parse_versioned(Dataset, data, where, what)
    with damage_refused(f"{where}: identity", what):
        _Identity.model_validate(dataset.identity, strict=True)
    try:
        fingerprint_of(dataset.identity)
    except ValueError as error:
        raise DamagedFile(f"{where}: identity: not {what}: {error}; {RESTORE}") from error
    for column in dataset.tokenizers:
        makers = "embedders" if column.kind == "embeddings" else "tokenizers"
        made_by = dataset.identity.get(makers, {}).get(column.name)
        if made_by is None or not _agrees(column, made_by):
            raise DamagedFile(
                f"{where}: not {what}: tokenizers: {column.name} does not agree with its settings"
                f" in identity.{makers}; {RESTORE}"
            )
    return dataset


def _agrees(column: TokenizerColumn, made_by: Mapping[str, Any]) -> bool:
    """Return whether a column holds the cells of a tokenizer or embedder of this identity."""
    if column.kind == "embeddings":
        return (column.axes, column.codebook_size) == (("n", "c"), None) and "float" in column.dtype
    if any(getattr(column, name) != made_by.get(name, 1) for name in ("scale", "every")):
        return False
    facts = made_by["facts"]
    axes, size, levels = ("t", "h", "w"), facts["codebook_size"], facts["levels"]
    if (column.kind, column.codebook_size) != (facts["kind"], size):
        return False
    if column.kind == "latents":
        is_float = "float" in column.dtype and column.bits is None
        is_quantized = column.dtype == "uint8" and column.bits is not None and not column.logvar
        return (column.axes, size) == (("c", *axes), None) and (is_float or is_quantized)
    fits = size is not None and (not levels or math.prod(levels) == size) and column.bits is None
    return fits and column.axes == axes and column.dtype == index_dtype(size)


def _names(dataset: Dataset) -> str:
    return ", ".join(f"{column.name} ({column.dtype})" for column in dataset.tokenizers)


def differences(then: Any, now: Any, name: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield dotted name and both values, as JSON, of every leaf in which two identities differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted(then.keys() | now.keys()):
            path = f"{name}.{key}" if name else key
            yield from differences(then.get(key, _ABSENT), now.get(key, _ABSENT), path)
    elif then != now:
        yield name, json.dumps(then), json.dumps(now)
