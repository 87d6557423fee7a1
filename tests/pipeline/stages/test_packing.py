"""Packed rows hold what went in, no more than a full row, and always the same."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.dataset.records import Counts
from pipeline.records import Bucket
from pipeline.stages.messages import (
    Aborted,
    BatchHeader,
    BatchRow,
    Closing,
    Payload,
    PayloadHeader,
    decoded_row,
    payload_row,
    read_decoded_row,
    read_payload,
)
from pipeline.stages.packing import (
    MAX_ROWS,
    pack_decoded,
    pack_payloads,
    packed_runs,
    unpack_decoded,
    unpack_payloads,
)
from tests.pipeline.units import make_clip

COUNTS = Counts(samples_read=0, clips_seen=0)
MOST = 4
"""Number of clips in a full row."""


def batch(unit: str, clips: int, side: int = 2, dtype: str = "uint8") -> BatchRow:
    """Return a row whose pixels tell its unit."""
    header = BatchHeader(
        unit=unit,
        seq=0,
        bucket=Bucket(frames=1, height=side, width=side),
        clips=tuple(make_clip(unit, n) for n in range(clips)),
    )
    return BatchRow(header, np.full((clips, 1, side, side, 3), len(unit), dtype), b"side")


def record(kind: int, unit: str) -> Any:
    """Return a batch row of `kind` clips; 0 stands for a closing row, -1 for one given up."""
    if kind > 0:
        return batch(unit, kind, side=1 + kind % 3)
    if kind == 0:
        return Closing(unit=unit, digests=(), counts=COUNTS)
    return Aborted(unit=unit, reason="decode: é")


def same(row: dict[str, NDArray[Any]], wanted: Any) -> bool:
    """Return whether a decoded row is that of a record."""
    found = read_decoded_row(row)
    if not isinstance(found, BatchRow):
        return bool(found == wanted)
    same_pixels = np.array_equal(found.frames, wanted.frames)
    same_type = found.frames.dtype == wanted.frames.dtype
    return found.header == wanted.header and found.side == wanted.side and same_pixels and same_type


@given(st.lists(st.integers(-1, MOST), max_size=20))
def test_rows_come_back_in_their_order(kinds: list[int]) -> None:
    records = [record(kind, f"u-{n}") for n, kind in enumerate(kinds)]
    packed = list(packed_runs(map(decoded_row, records), MOST))
    held = [list(unpack_decoded(row)) for row in packed]
    rows = [row for some in held for row in some]
    assert len(rows) == len(records)
    assert all(map(same, rows, records))
    sizes = [[max(0, kinds.pop(0)) for _ in some] for some in held]
    assert all(sum(some) <= MOST for some in sizes)
    # A row begins a new packed row only if the last one has no room for it.
    assert all(sum(some) + more[0] > MOST for some, more in pairwise(sizes))


def test_closing_rows_alone_also_end_a_packed_row() -> None:
    rows = [decoded_row(record(0, f"u-{n}")) for n in range(MAX_ROWS + 1)]
    assert [len(list(unpack_decoded(row))) for row in packed_runs(rows, MOST)] == [MAX_ROWS, 1]


def test_a_whole_video_is_not_packed() -> None:
    file = BatchHeader(
        unit="v", seq=0, bucket=Bucket(frames=0, height=8, width=8), clips=(make_clip("v", 0),)
    )
    video = decoded_row(BatchRow(file, np.zeros((1, 1, 1, 99, 1), np.uint8)))
    small = decoded_row(batch("u", 1))
    assert [row["kind"][0] for row in packed_runs([small, video, small], MOST)] == ["batch"] * 3


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_frames_keep_their_type_and_are_not_copied_when_read(dtype: str) -> None:
    rows = [batch("u", 1, dtype=dtype), batch("uu", 3, side=5, dtype=dtype)]
    packed = pack_decoded([decoded_row(row) for row in rows])
    back = list(unpack_decoded(packed))
    assert all(map(same, back, rows))
    assert all(np.shares_memory(row["frames"], packed["frames"]) for row in back)


def test_payload_rows_come_back() -> None:
    def payload(unit: str) -> Payload:
        header = PayloadHeader(
            unit=unit,
            seq=1,
            digest="d",
            bucket=Bucket(frames=1, height=2, width=2),
            clip_ids=("c",),
        )
        return Payload(header, unit.encode() * 3)

    closing = Closing(unit="u", digests=("d",), counts=COUNTS)
    blocks = [
        payload_row(payload("u"), waiting_s=1.0),
        payload_row(closing),
        payload_row(payload("v"), busy_s=2.0),
    ]
    packed = pack_payloads(blocks)
    assert packed.num_rows == 1
    assert packed.schema == blocks[0].schema
    back = unpack_payloads(packed)
    assert [back.slice(n, 1).to_pylist() for n in range(3)] == [b.to_pylist() for b in blocks]
    assert read_payload(back.slice(2, 1)) == payload("v")
    assert unpack_payloads(blocks[0]).equals(blocks[0])
    assert pack_payloads(blocks[:1]) is blocks[0]
