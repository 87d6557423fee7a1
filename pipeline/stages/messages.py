"""The rows of the Ray dataset: how a stage's records become columns, and records again.

    decode ─► kind unit seq header side frames ─► tokenize
    tokenize ─► kind unit seq header rows num_clips waiting_s busy_s ─► commit

Each block holds one row. `kind` names the record in `header` (JSON): the header of a batch, the
`Closing` of a unit, or the `Aborted` of a unit that a stage gave up. Frames travel as an array of
shape (1, N, T, H, W, 3), which Ray stores without a copy and returns as a read-only view.

The clips of a sample share its caption and its `meta`. A row holds each such text once, and so
each embedding of one. Side columns, such as sound, travel as an Arrow IPC stream.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dataset.records import Counts
from pipeline.dataset.side_columns import SHOT_END, SideColumn
from pipeline.dataset.statistics import PsnrSums
from pipeline.quarantine import Quarantined
from pipeline.records import Bucket, Clip, Span, from_json, to_json

BATCH: Final = "batch"
CLOSING: Final = "closing"
ABORTED: Final = "aborted"
"""Values of the column `kind`."""

PAYLOAD_SCHEMA: Final = pa.schema(
    [
        ("kind", pa.string()),
        ("unit", pa.string()),
        ("seq", pa.int64()),
        ("header", pa.binary()),
        ("rows", pa.binary()),
        ("num_clips", pa.int64()),
        ("waiting_s", pa.float64()),
        ("busy_s", pa.float64()),
    ]
)
"""Columns between tokenize and commit."""

_NO_FRAMES: Final = np.zeros((1, 1, 1, 1, 1, 3), np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHeader:
    """What a batch row holds beside its frames `[N, T, H, W, 3]`.

    The row of a whole video carries the file instead of frames, which memory might not hold. It
    has one clip, and the `span` of its sample.
    """

    unit: str
    seq: int
    bucket: Bucket
    clips: tuple[Clip, ...]
    span: Span | None = None
    side_digest: str = ""
    """SHA-256 of the row's side columns; empty without them."""

    def digest(self) -> str:
        """Return 16 hex digits of ids and geometry, which differ if a replay's outcome differs."""
        return hashlib.sha256(self.to_json()).hexdigest()[:16]

    def to_json(self) -> bytes:
        """Return the header as JSON that holds each text once; `from_json` reads it back."""
        found: dict[str | None, int] = {}
        places = tuple(
            (found.setdefault(c.caption, len(found)), found.setdefault(c.meta, len(found)))
            for c in self.clips
        )
        bare = tuple(replace(clip, caption=None, meta=None, side={}) for clip in self.clips)
        return to_json(_PackedHeader(replace(self, clips=bare), tuple(found), places))

    @classmethod
    def from_json(cls, data: bytes) -> "BatchHeader":
        """Return the header; its clips share their texts."""
        packed = from_json(_PackedHeader, data)
        clips = tuple(
            replace(clip, caption=packed.texts[caption], meta=packed.texts[meta])
            for clip, (caption, meta) in zip(packed.header.clips, packed.places, strict=True)
        )
        return replace(packed.header, clips=clips)


@dataclass(frozen=True, slots=True)
class _PackedHeader:
    """A header whose clips have no texts; the texts; the places of each clip's two among them."""

    header: BatchHeader
    texts: tuple[str | None, ...]
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The last row of a unit, against which the commit checks the others.

    `counts.clips_written` counts the clips in batch rows. The commit moves those that the tokenizer
    quarantined to `clips_quarantined`.
    """

    unit: str
    digests: tuple[str, ...]
    counts: Counts
    quarantined: tuple[Quarantined, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    """Number of filtered clips by the rule that dropped them."""
    shot_ends: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Ends of the shots of each sample in seconds by key, if samples are split into shots. They are
    known after the clips have left."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of work by stage, for the summary."""
    node: str = ""
    """Name of the node that decoded the unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadHeader:
    """What the tokenizer adds to the Arrow rows of one batch row."""

    unit: str
    seq: int
    digest: str
    bucket: Bucket
    clip_ids: tuple[str, ...]
    quarantined: tuple[Quarantined, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    psnr: dict[str, PsnrSums] = field(default_factory=dict)
    """Sums of PSNR by tokenizer, over the clips that were decoded back."""


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A batch of clips of one unit and one bucket; `frames` is [N, T, H, W, 3]."""

    header: BatchHeader
    frames: NDArray[Any]
    side: bytes = b""
    """Side columns of the clips, as `encode_rows` writes them; empty without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    """A unit that a stage gave up for a reason that no sample is to blame for."""

    unit: str
    reason: str
    node: str = ""
    """Name of the node that gave it up."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A tokenized batch row; `rows` is an Arrow IPC stream with the dataset's schema."""

    header: PayloadHeader
    rows: bytes


def decoded_row(record: BatchRow | Closing | Aborted) -> dict[str, NDArray[Any]]:
    """Return a record as a Ray batch of one row."""
    header: BatchHeader | Closing | Aborted
    if isinstance(record, BatchRow):
        header, seq, frames = record.header, record.header.seq, record.frames[np.newaxis]
        data, side = header.to_json(), record.side
    else:
        header, seq, frames = record, -1, _NO_FRAMES
        data, side = to_json(header), b""
    return {
        "kind": np.array([_kind(record)], dtype=object),
        "unit": np.array([header.unit], dtype=object),
        "seq": np.array([seq], dtype=np.int64),
        "header": np.array([data], dtype=object),
        "side": np.array([side], dtype=object),
        "frames": frames,
    }


def _kind(record: BatchRow | Payload | Closing | Aborted) -> str:
    return {Closing: CLOSING, Aborted: ABORTED}.get(type(record), BATCH)


def read_decoded_row(batch: dict[str, NDArray[Any]]) -> BatchRow | Closing | Aborted:
    """Read back what `decoded_row` wrote."""
    kind, header = str(batch["kind"][0]), bytes(batch["header"][0])
    if kind == BATCH:
        return BatchRow(BatchHeader.from_json(header), batch["frames"][0], bytes(batch["side"][0]))
    return from_json(Closing, header) if kind == CLOSING else from_json(Aborted, header)


def payload_row(
    record: Payload | Closing | Aborted, *, waiting_s: float = 0.0, busy_s: float = 0.0
) -> pa.Table:
    """Return a record as a Ray block of one row.

    Args:
        record: the row.
        waiting_s: seconds that the actor waited for input since its last payload row.
        busy_s: seconds that the actor worked since its last payload row.
    """
    if isinstance(record, Payload):
        header = record.header
        row = (header.unit, header.seq, to_json(header), record.rows, len(header.clip_ids))
    else:
        row = (record.unit, -1, to_json(record), b"", 0)
    columns = [[value] for value in (_kind(record), *row, waiting_s, busy_s)]
    return pa.table(columns, schema=PAYLOAD_SCHEMA)


def read_payload(block: pa.Table) -> Payload:
    """Read a block that holds a batch's payload."""
    header = from_json(PayloadHeader, block["header"][0].as_py())
    return Payload(header, block["rows"][0].as_py())


def side_rows(clips: Sequence[Clip], side: Sequence[SideColumn]) -> pa.RecordBatch:
    """Return the side columns of clips; a value that a clip lacks is null."""
    fields = [pa.field(column.name, column.type) for column in side]
    columns = {column.name: [clip.side.get(column.name) for clip in clips] for column in side}
    return pa.RecordBatch.from_pydict(columns, schema=pa.schema(fields))


def encode_rows(rows: pa.RecordBatch) -> bytes:
    """Return rows as an Arrow IPC stream, which a row of Ray carries."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_batch(rows)
    return bytes(sink.getvalue())


def decode_rows(data: bytes) -> pa.Table:
    """Read back what `encode_rows` wrote.

    Raises:
        pyarrow.ArrowInvalid: the bytes are not an IPC stream.
    """
    with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
        return stream.read_all()


def with_shot_ends(rows: pa.Table, ends: Mapping[str, Sequence[float]]) -> pa.Table:
    """Return rows with the ends of their shots.

    Args:
        rows: rows of clips; unchanged if they have no shots.
        ends: ends of the shots of each sample by key. A shot without one keeps its value.
    """
    if (place := rows.schema.get_field_index(SHOT_END)) < 0:
        return rows
    columns = (rows[name].to_pylist() for name in ("key", "shot", SHOT_END))
    values = [
        known if shot >= len(ends.get(key, ())) else ends[key][shot]
        for key, shot, known in zip(*columns, strict=True)
    ]
    field = rows.schema.field(place)
    return rows.set_column(place, field, pa.array(values, field.type))


def byte_lengths(values: pa.ChunkedArray) -> pa.Array:
    """Return the number of bytes of each value of a column, packed or plain."""
    array = values.combine_chunks()
    if isinstance(array, pa.DictionaryArray):
        return pc.binary_length(array.dictionary).take(array.indices)
    return pc.binary_length(array)


def plain_rows(packed: pa.Table, schema: pa.Schema, max_bytes: int) -> Iterator[pa.Table]:
    """Yield rows in the schema of the parts, in pieces that keep their order.

    Args:
        packed: rows in the packed schema.
        schema: schema of the parts.
        max_bytes: size of the texts and embeddings of a piece, which one row more can exceed.
    """
    sizes = np.zeros(packed.num_rows, np.int64)
    for column in packed.columns:
        if pa.types.is_dictionary(column.type):
            lengths = byte_lengths(column)
            sizes += lengths.fill_null(0).to_numpy(zero_copy_only=False)
    piece = np.cumsum(sizes) // max_bytes
    starts = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), packed.num_rows]
    for start, stop in pairwise(starts):
        yield packed.slice(start, stop - start).cast(schema)
