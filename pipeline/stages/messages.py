"""The rows of the Ray dataset: how a stage's records become columns, and records again.

    decode ─► kind unit seq header frames ─► tokenize
    tokenize ─► kind unit seq header rows num_clips waiting_s busy_s ─► commit

One row per block. `kind` says what `header` (JSON) is: a batch's header, a unit's `Closing`, or the
`Aborted` of a unit that a stage gave up, which is how its reason reaches the driver. Frames travel
as an array of shape (1, N, T, H, W, 3): Ray stores that without a copy and hands it out as a
read-only view.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dataset.records import Counts
from pipeline.dataset.statistics import PsnrSums
from pipeline.quarantine import Quarantined
from pipeline.records import Bucket, Clip, Span, from_json, to_json


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHeader:
    """What a batch row says beside its frames `[N, T, H, W, 3]`.

    The row of a whole video carries its file instead, since its frames may be more than memory
    holds: `clips` is one, and `span` that of its sample.
    """

    unit: str
    seq: int
    bucket: Bucket
    clips: tuple[Clip, ...]
    span: Span | None = None

    def digest(self) -> str:
        """Digest of the ids and geometry: a replay that came out differently shows here."""
        return hashlib.sha256(to_json(self)).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The last row of a unit: what the commit checks the others against.

    `counts.clips_written` counts the clips that went into batch rows; the commit moves those that
    the tokenizer quarantined.
    """

    unit: str
    digests: tuple[str, ...]
    counts: Counts
    quarantined: tuple[Quarantined, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of work by stage name, for the summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadHeader:
    """What the tokenizer says of one batch row beside its Arrow rows."""

    unit: str
    seq: int
    digest: str
    bucket: Bucket
    clip_ids: tuple[str, ...]
    quarantined: tuple[Quarantined, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    psnr: dict[str, PsnrSums] = field(default_factory=dict)
    """By tokenizer, of the clips that were decoded back."""


BATCH: Final = "batch"


CLOSING: Final = "closing"


ABORTED: Final = "aborted"


_NO_FRAMES: Final = np.zeros((1, 1, 1, 1, 1, 3), np.uint8)


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


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One batch of clips of one unit and one bucket; `frames` is [N, T, H, W, 3]."""

    header: BatchHeader
    frames: NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    """A stage could not go on with a unit, for a reason that is no sample's fault."""

    unit: str
    reason: str


@dataclass(frozen=True, slots=True)
class Payload:
    """What tokenize made of a batch row; `rows` is an Arrow stream of `pipeline.dataset.schema`."""

    header: PayloadHeader
    rows: bytes


def decoded_row(record: BatchRow | Closing | Aborted) -> dict[str, NDArray[Any]]:
    """Return a record as a Ray batch of one row."""
    if isinstance(record, BatchRow):
        return _columns(
            BATCH, record.header.unit, record.header.seq, record.header, record.frames[np.newaxis]
        )
    kind = CLOSING if isinstance(record, Closing) else ABORTED
    return _columns(kind, record.unit, -1, record, _NO_FRAMES)


def read_decoded_row(batch: dict[str, NDArray[Any]]) -> BatchRow | Closing | Aborted:
    """Read back what `decoded_row` wrote."""
    kind, header = str(batch["kind"][0]), bytes(batch["header"][0])
    if kind == BATCH:
        return BatchRow(from_json(BatchHeader, header), batch["frames"][0])
    return from_json(Closing, header) if kind == CLOSING else from_json(Aborted, header)


def payload_row(
    record: Payload | Closing | Aborted, *, waiting_s: float = 0.0, busy_s: float = 0.0
) -> pa.Table:
    """Return a record as a Ray block of one row.

    Args:
        record: the row.
        waiting_s: seconds that the actor waited for input since the row that told so last.
        busy_s: likewise, seconds that it worked.
    """
    if isinstance(record, Payload):
        header = record.header
        clips = len(header.clip_ids)
        row = (BATCH, header.unit, header.seq, to_json(header), record.rows, clips)
    else:
        kind = CLOSING if isinstance(record, Closing) else ABORTED
        row = (kind, record.unit, -1, to_json(record), b"", 0)
    columns = [[value] for value in (*row, waiting_s, busy_s)]
    return pa.table(columns, schema=PAYLOAD_SCHEMA)


def read_payload(block: pa.Table) -> Payload:
    """Read a block that holds a batch's payload."""
    header = from_json(PayloadHeader, block["header"][0].as_py())
    return Payload(header, block["rows"][0].as_py())


def _columns(
    kind: str, unit: str, seq: int, header: object, frames: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    return {
        "kind": np.array([kind], dtype=object),
        "unit": np.array([unit], dtype=object),
        "seq": np.array([seq], dtype=np.int64),
        "header": np.array([to_json(header)], dtype=object),
        "frames": frames,
    }


def encode_rows(rows: pa.RecordBatch) -> bytes:
    """Return rows as an Arrow IPC stream: what a payload carries to the commit."""
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
