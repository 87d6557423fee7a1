"""Every bit of a file, flipped: a reader gives the same rows or an error."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.parquet_file import UNREADABLE, parquet_reader, read_footer, read_group
from tests.pipeline.units import parquet_bytes

TABLE = pa.table(
    {
        "name": ["a", None, "c"],
        "crop": pa.array([[1.5, 2.5], [], None], pa.list_(pa.float32())),
        "shape": pa.array([[2, 16, 16], [2, 16, 16], [2, 16, 16]], pa.list_(pa.int32())),
        "number": pa.array([1, 2, 300], pa.int32()),
    }
)
DATA = parquet_bytes(TABLE)


def flipped(at: int, bit: int) -> pa.BufferReader:
    data = bytearray(DATA)
    data[at] ^= 1 << bit
    return pa.BufferReader(bytes(data))


def test_other_readers_read_it() -> None:
    assert pq.read_table(io.BytesIO(DATA), page_checksum_verification=True) == TABLE
    assert read_group(parquet_reader(io.BytesIO(DATA)), 0) == TABLE
    assert read_group(parquet_reader(io.BytesIO(DATA)), 0, ["crop"]) == TABLE.select(["crop"])


def test_a_flipped_bit_gives_the_same_rows_or_an_error() -> None:
    """Page headers have no checksum: without the number of values some give other lists."""
    outcomes = {"same": 0, "error": 0, "only by the number of values": 0}
    footer = read_footer(pa.BufferReader(DATA))
    pages = footer.row_group(0).column(3)
    end = pages.data_page_offset + pages.total_compressed_size
    for at in range(end):
        for bit in range(8):
            parquet = parquet_reader(flipped(at, bit), footer)
            try:
                found = parquet.read_row_group(0)
            except UNREADABLE:
                outcomes["error"] += 1
                continue
            if found == TABLE:
                outcomes["same"] += 1
                assert read_group(parquet, 0) == TABLE
            else:
                outcomes["only by the number of values"] += 1
                with pytest.raises(pa.ArrowInvalid, match="not the number of values"):
                    read_group(parquet, 0)
    assert all(count > 0 for count in outcomes.values())


def test_a_flipped_bit_of_the_footer_is_an_error() -> None:
    start = len(DATA) - 12 - int.from_bytes(DATA[-8:-4], "little")
    for at in range(start, len(DATA)):
        for bit in range(8):
            with pytest.raises(UNREADABLE):
                parquet_reader(flipped(at, bit))


@pytest.mark.parametrize("data", [b"", b"PAR1", DATA[:-1], DATA[:-300], DATA[50:], DATA + b"\0"])
def test_a_file_that_is_cut(data: bytes) -> None:
    if data == DATA[50:]:  # its end is whole
        with pytest.raises(UNREADABLE):
            read_group(parquet_reader(pa.BufferReader(data)), 0)
        return
    with pytest.raises(UNREADABLE):
        read_footer(pa.BufferReader(data))


def test_a_footer_longer_than_the_first_read() -> None:
    wide = pa.table({f"column {n} " + "x" * 100: [n] for n in range(500)})
    data = parquet_bytes(wide)
    assert int.from_bytes(data[-8:-4], "little") > 64 << 10
    assert read_group(parquet_reader(io.BytesIO(data)), 0) == wide
