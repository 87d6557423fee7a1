"""Cells survive the way from arrays and tensors to the bytes of a part and back, in every dtype."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.dataset.cells import (
    clip_rows,
    column_cells,
    from_tensor,
    latent_values,
    numbers,
    row_cells,
    stored_values,
    to_tensor,
)
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.stages.messages import decode_rows, encode_rows
from tests.pipeline.units import FSQ, SCHEMA, SMALL, make_cells, make_clip

CLIPS = [make_clip("u-1", n) for n in range(7)]
CELLS = make_cells(CLIPS, SMALL)
INDICES = ("uint8", "uint16", "uint32")
LATENTS = ("float16", "float32", "bfloat16")


def tokenizer(dtype: Any) -> TokenizerColumn:
    fsq = dtype in INDICES
    return TokenizerColumn(
        name="n",
        kind="indices" if fsq else "latents",
        dtype=dtype,
        axes=("t", "h", "w") if fsq else ("c", "t", "h", "w"),
        model="m",
        fingerprint="0",
        codebook_size=1 << 8 * np.dtype(dtype).itemsize if fsq else None,
    )


@st.composite
def stored(draw: st.DrawFn) -> tuple[TokenizerColumn, NDArray[Any]]:
    """Draw a tokenizer and cells [rows, …] of any bits, NaN and infinities included."""
    column = tokenizer(draw(st.sampled_from([*INDICES, *LATENTS])))
    rows = draw(st.integers(0, 5))
    shape = draw(st.tuples(*[st.integers(1, 3)] * len(column.axes)))
    size = rows * int(np.prod(shape)) * column.stored_dtype.itemsize
    bits = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), column.stored_dtype)
    return column, bits.reshape(rows, *shape)


def part_rows(column: TokenizerColumn, cells: NDArray[Any]) -> pa.Table:
    clips = [make_clip("u", n) for n in range(len(cells))]
    return pa.Table.from_batches([clip_rows(clips, {"n": cells}, clip_schema([column]))])


@given(stored(), st.data())
def test_bytes_are_read_back(
    made: tuple[TokenizerColumn, NDArray[Any]], data: st.DataObject
) -> None:
    column, cells = made
    start = data.draw(st.integers(0, len(cells)))
    table, rest = part_rows(column, cells).slice(start), cells[start:]
    wanted = rest.tobytes()
    assert stored_values(table["n"], column).tobytes() == wanted
    found = column_cells(table["n"], cells.shape[1:], column)
    assert (found.shape, found.dtype, found.tobytes()) == (rest.shape, rest.dtype, wanted)
    for row, one in zip(table.to_pylist(), rest, strict=True):
        found = row_cells(row["n"], row["n_shape"], column)
        assert (found.shape, found.tobytes()) == (one.shape, one.tobytes())


@given(stored())
def test_several_chunks_are_one_column(made: tuple[TokenizerColumn, NDArray[Any]]) -> None:
    column, cells = made
    table = pa.concat_tables([part_rows(column, cells), part_rows(column, cells[:1])])
    wanted = np.concatenate([cells, cells[:1]])
    assert stored_values(table["n"], column).tobytes() == wanted.tobytes()
    assert column_cells(table["n"], cells.shape[1:], column).tobytes() == wanted.tobytes()


@given(stored())
def test_tensors_hold_the_numbers(made: tuple[TokenizerColumn, NDArray[Any]]) -> None:
    column, cells = made
    tensor = to_tensor(cells, column)
    dtype = torch.int64 if column.kind == "indices" else getattr(torch, column.dtype)
    assert (tuple(tensor.shape), tensor.dtype) == (cells.shape, dtype)
    values = numbers(cells, column)
    with np.errstate(invalid="ignore"):  # NumPy warns when it widens a signaling NaN
        wide = torch.from_numpy(values.astype(np.int64 if column.kind == "indices" else np.float64))
    assert torch.equal(tensor.to(wide.dtype).nan_to_num(7), wide.nan_to_num(7))
    if column.kind == "latents":
        back = from_tensor(tensor, column)
        assert (back.dtype, back.tobytes()) == (cells.dtype, cells.tobytes())


@pytest.mark.parametrize("dtype", LATENTS)
def test_a_latent_is_read_as_such(dtype: str) -> None:
    column = tokenizer(dtype)
    values = torch.tensor([1.0, -2.5, 0.015625, 300.0], dtype=getattr(torch, dtype))
    row = {"n": from_tensor(values, column).tobytes(), "n_shape": [2, 1, 1, 2]}
    found = latent_values(row, column)
    assert (found.dtype, found.tolist()) == (
        np.float64,
        [[[[1, -2.5]]], [[[0.015625, 300]]]],
    )


def test_a_tensor_owns_its_memory() -> None:
    column = tokenizer("float32")
    cells = np.ones((1, 4), "<f4")
    to_tensor(cells, column).zero_()
    assert cells.sum() == 4


def test_cells_that_do_not_fill_their_shape() -> None:
    column = tokenizer("uint16")
    rows = part_rows(column, np.ones((2, 1, 2, 2), "<u2"))
    with pytest.raises(pa.ArrowInvalid, match=r"n: cells do not fill the shape \[1, 2, 3\]"):
        column_cells(rows["n"], (1, 2, 3), column)
    with pytest.raises(ValueError, match="reshape"):
        row_cells(rows["n"][0].as_py(), (1, 2, 3), column)


class TestRows:
    def test_cells_are_little_endian_in_c_order(self) -> None:
        indices = np.arange(2 * 2 * 3 * 4, dtype=">u2").reshape(2, 4, 3, 2).transpose(0, 3, 2, 1)
        schema = clip_schema([FSQ])
        rows = clip_rows(CLIPS[:2], {"fsq": indices}, schema)
        for n in range(2):
            assert rows["fsq_shape"][n].as_py() == [2, 3, 4]
            assert rows["fsq"][n].as_py() == indices[n].astype("<u2").tobytes("C")

    def test_rows_hold_what_the_clips_say(self) -> None:
        rows = clip_rows(CLIPS, CELLS, SCHEMA).to_pylist()
        for clip, row in zip(CLIPS, rows, strict=True):
            assert row["clip_id"] == clip.clip_id == f"u-1/{clip.key}/{clip.clip_index}"
            for name in ("unit", "start_s", "end_s", "source_fps", "caption", "meta"):
                assert row[name] == getattr(clip, name)
            assert row["crop"] == list(clip.crop)

    def test_no_clips(self) -> None:
        rows = clip_rows([], make_cells([], SMALL), SCHEMA)
        assert decode_rows(encode_rows(rows)).num_rows == 0

    def test_round_trip_keeps_rows_and_metadata(self) -> None:
        rows = clip_rows(CLIPS, CELLS, SCHEMA)
        back = decode_rows(encode_rows(rows))
        assert back.schema.equals(SCHEMA, check_metadata=True)
        assert back.to_batches() == [rows]

    @pytest.mark.parametrize(
        ("cells", "text"),
        [
            ({"fsq": CELLS["fsq"].astype(np.int32)}, "fsq: got int32"),
            ({"fsq": CELLS["fsq"][:3]}, r"fsq: got uint16 \[3,"),
            ({"kl_logvar": CELLS["kl_logvar"][:, :2]}, "kl: mean"),
        ],
    )
    def test_cells_that_do_not_fit(self, cells: dict[str, np.ndarray], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            clip_rows(CLIPS, {**CELLS, **cells}, SCHEMA)
