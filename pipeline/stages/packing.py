"""Several small rows of the Ray dataset as one, since Ray charges by the block.

    rows of one decode task ─► pack_decoded ─► unpack_decoded ─► tokenize … pack_payloads

Each block of Ray holds one row. A packed row has the columns of the rows that it holds; its `kind`
is `packed`. It holds no more clips than a full row, so it is not larger than one.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.stages.messages import (
    PAYLOAD_SCHEMA,
    BatchRow,
    decode_rows,
    encode_rows,
    read_decoded_row,
)

PACKED: Final = "packed"
"""Value of the column `kind`."""

MAX_ROWS: Final = 64
"""Maximum number of rows in a packed row. Clips do not limit closing rows, which hold none."""

DecodedRow = dict[str, NDArray[Any]]
"""A row as `pipeline.stages.messages.decoded_row` returns it."""


def packed_runs(rows: Iterable[DecodedRow], max_clips: int) -> Iterator[DecodedRow]:
    """Yield rows in their order, neighbours packed.

    The rows alone decide what is packed, never the time. When a task is repeated, Ray keeps the
    rows that it has, and takes the others from the replay by their number.

    Args:
        rows: rows from `decoded_row`.
        max_clips: number of clips in a full row, the maximum in a packed one.
    """
    run: list[DecodedRow] = []
    room = max_clips
    for row in rows:
        clips = _clips(row, max_clips)
        if run and (clips > room or len(run) == MAX_ROWS):
            yield pack_decoded(run)
            run, room = [], max_clips
        run.append(row)
        room -= clips
    if run:
        yield pack_decoded(run)


def _clips(row: DecodedRow, max_clips: int) -> int:
    """Return how much of a packed row a row takes; a whole video can be large and takes all."""
    record = read_decoded_row(row)
    if not isinstance(record, BatchRow):
        return 0
    return len(record.header.clips) if record.header.bucket.frames else max_clips


def pack_decoded(rows: Sequence[DecodedRow]) -> DecodedRow:
    """Return rows as one; a single row stays as it is."""
    if len(rows) == 1:
        return rows[0]
    frames = [np.ascontiguousarray(row["frames"][0]) for row in rows]
    columns = {name: [row[name][0] for row in rows] for name in rows[0] if name != "frames"}
    columns |= {"shape": [f.shape for f in frames], "dtype": [f.dtype.str for f in frames]}
    flat = np.concatenate([f.reshape(-1).view(np.uint8) for f in frames])
    return {
        "kind": np.array([PACKED], dtype=object),
        "unit": np.array([""], dtype=object),
        "seq": np.array([-1], dtype=np.int64),
        "header": np.array([encode_rows(pa.RecordBatch.from_pydict(columns))], dtype=object),
        "side": np.array([b""], dtype=object),
        "frames": flat.reshape(1, 1, 1, 1, 1, -1),
    }


def unpack_decoded(row: DecodedRow) -> Iterator[DecodedRow]:
    """Yield the rows that a row holds; their frames are views."""
    if row["kind"][0] != PACKED:
        yield row
        return
    flat, start = row["frames"][0].reshape(-1), 0
    for one in decode_rows(bytes(row["header"][0])).to_pylist():
        dtype, shape = np.dtype(one.pop("dtype")), one.pop("shape")
        stop = start + prod(shape) * dtype.itemsize
        frames = flat[start:stop].view(dtype).reshape(1, *shape)
        start = stop
        yield {
            **{name: np.array([value], dtype=object) for name, value in one.items()},
            "frames": frames,
        }


def pack_payloads(blocks: Sequence[pa.Table]) -> pa.Table:
    """Return payload blocks of one row as one block of one row; a single one stays as it is."""
    if len(blocks) == 1:
        return blocks[0]
    [rows] = pa.concat_tables(blocks).combine_chunks().to_batches()
    row = [PACKED, "", -1, b"", encode_rows(rows), 0, 0.0, 0.0]
    return pa.table([[value] for value in row], schema=PAYLOAD_SCHEMA)


def unpack_payloads(block: pa.Table) -> pa.Table:
    """Return the payload rows that a block holds."""
    if block["kind"][0].as_py() != PACKED:
        return block
    return decode_rows(block["rows"][0].as_buffer())
