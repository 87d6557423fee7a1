"""The cells of clips as bytes, arrays and tensors: the one place that converts between them.

A cell column holds the cells of a clip as bytes: little-endian, in C order. NumPy has no bfloat16,
so arrays of the stored dtype hold its bit patterns as uint16. Latents in uint8 become numbers with
the scale of their row (`quantized`).
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dataset.quantized import Floats, dequantize, row_scale
from pipeline.dataset.schema import CLIP_FIELDS, TokenizerColumn, tokenizer_columns
from pipeline.records import Clip

if TYPE_CHECKING:
    from torch import Tensor


def clip_rows(
    clips: Sequence[Clip],
    cells: Mapping[str, NDArray[Any]],
    schema: pa.Schema,
    side: pa.RecordBatch | None = None,
) -> pa.RecordBatch:
    """Return the rows of clips of one shape.

    Args:
        clips: N clips.
        cells: array [N, …] of the stored dtype, by cell column (`N` and `N_logvar`), the scales
            [N, 2·C] by column of scales, and numbers [N] by side column that `side` lacks.
        schema: schema of the parts, from `clip_schema`.
        side: side columns of the clips; None if the schema has none.

    Raises:
        ValueError: an array does not fit the clips or the column's dtype.
    """
    columns: dict[str, Any] = {
        field.name: [getattr(clip, field.name) for clip in clips] for field in CLIP_FIELDS
    }
    for column in tokenizer_columns(schema):
        for name in column.cell_columns:
            columns[name] = _binary(name, cells[name], len(clips), column.stored_dtype)
        for name in column.scale_columns:
            columns[name] = list(cells[name])
        shape = cells[column.name].shape[1:]
        if column.logvar and cells[f"{column.name}_logvar"].shape[1:] != shape:
            raise ValueError(
                f"{column.name}: mean {shape}, logvar {cells[f'{column.name}_logvar'].shape[1:]}"
            )
        columns[f"{column.name}_shape"] = [shape] * len(clips)
    columns |= {} if side is None else dict(zip(side.schema.names, side.columns, strict=True))
    columns |= {name: cells[name] for name in schema.names if name not in columns}
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def _binary(name: str, cells: NDArray[Any], rows: int, dtype: "np.dtype[Any]") -> pa.Array:
    """Return [N, …] as N binary values without copying row by row."""
    if cells.shape[:1] != (rows,) or cells.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        raise ValueError(
            f"{name}: got {cells.dtype} {list(cells.shape)}, the column takes {dtype} [{rows}, …]"
        )
    data = np.ascontiguousarray(cells, dtype=dtype)
    width = data.nbytes // rows if rows else 0
    offsets = np.arange(rows + 1, dtype="<i4") * np.int32(width)
    return pa.Array.from_buffers(
        pa.binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def row_cells(data: Any, shape: Sequence[int], column: TokenizerColumn) -> NDArray[Any]:
    """Return the cells of one row as a view of its bytes.

    Args:
        data: value of a cell column: bytes, or a buffer of Arrow.
        shape: value of the column's `N_shape`.
        column: the tokenizer.

    Returns:
        Array [*shape] of the stored dtype.

    Raises:
        ValueError: the bytes do not fill the shape.
    """
    return np.frombuffer(data, column.stored_dtype).reshape(shape)


def stored_values(values: pa.ChunkedArray, column: TokenizerColumn) -> NDArray[Any]:
    """Return the cells of all rows of a cell column, one row after another.

    Returns:
        Array [cells] of the stored dtype: a view of Arrow's memory, if the column is one chunk.
    """
    ends, data = _ends(values)
    count = int(ends[-1] - ends[0]) // column.stored_dtype.itemsize
    return np.frombuffer(data, column.stored_dtype, count, ends[0])


def column_cells(
    values: pa.ChunkedArray, shape: Sequence[int], column: TokenizerColumn
) -> NDArray[Any]:
    """Return the cells of a cell column whose rows all have one shape.

    Returns:
        Array [rows, *shape] of the stored dtype: a view of Arrow's memory, if the column is one
        chunk.

    Raises:
        pyarrow.ArrowInvalid: the cells of a row do not fill the shape.
    """
    if (np.diff(_ends(values)[0]) != column.cell_bytes(shape)).any():
        raise pa.ArrowInvalid(f"column {column.name}: cells do not fill the shape {list(shape)}")
    return stored_values(values, column).reshape(len(values), *shape)


def _ends(values: pa.ChunkedArray) -> tuple[NDArray[np.int32], Any]:
    """Return the offsets of a binary column's rows, one more than rows, and the bytes."""
    array = values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()
    if not len(array):
        return np.zeros(1, np.int32), b""
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return ends, data or b""


def numbers(cells: NDArray[Any], column: TokenizerColumn) -> NDArray[Any]:
    """Return stored cells as numbers of the same shape: bfloat16 as float32, others as they are.

    Cells of latents in uint8 stay cells.
    """
    if column.dtype == "bfloat16":
        return (cells.astype("<u4") << 16).view("<f4")
    return cells


def latent_values(row: Mapping[str, Any], column: TokenizerColumn) -> NDArray[np.float64]:
    """Return the latent of one row, as readers return it, as [C, …] float64.

    Args:
        row: the tokenizer's columns, as they are stored.
        column: the tokenizer.

    Raises:
        ValueError: the bytes do not fill the shape, or the scale is wrong.
    """
    cells = row_cells(row[column.name], row[f"{column.name}_shape"], column)
    if (scale := row_scale(row, column)) is None:
        return numbers(cells, column).astype(np.float64)
    values = cells.astype(np.float32)
    dequantize(values, scale)
    return values.astype(np.float64)


def tensor_dtype(column: TokenizerColumn) -> "np.dtype[Any]":
    """Return the NumPy type that `as_tensor` takes.

    It is int64 for code indices, float32 for latents in uint8, int16 for the bits of bfloat16, else
    the stored type.
    """
    if column.kind == "indices":
        return np.dtype(np.int64)
    if column.bits is not None:
        return np.dtype(np.float32)
    return np.dtype(np.int16) if column.dtype == "bfloat16" else column.stored_dtype


def as_tensor(values: NDArray[Any], column: TokenizerColumn) -> "Tensor":
    """Return a tensor that shares the memory of an array of `tensor_dtype`.

    Returns:
        Tensor of the same shape: int64 for code indices, float32 for latents in uint8, else the
        column's dtype.
    """
    import torch  # here, because actors that decode and commit start without it

    tensor = torch.from_numpy(values)
    return tensor.view(torch.bfloat16) if column.dtype == "bfloat16" else tensor


def to_tensor(
    cells: NDArray[Any], column: TokenizerColumn, scale: Floats | None = None
) -> "Tensor":
    """Return stored cells as a tensor of the same shape that owns its memory; see `as_tensor`.

    Args:
        cells: [C, …] of one row, or of any shape without a scale.
        column: the tokenizer.
        scale: scale of the row, from `row_scale`.
    """
    values = cells.astype(tensor_dtype(column))
    if scale is not None:
        dequantize(values, scale)
    return as_tensor(values, column)


def from_tensor(values: "Tensor", column: TokenizerColumn) -> NDArray[Any]:
    """Return latents as stored cells of the same shape.

    Args:
        values: tensor of the column's dtype, or float32 to `quantize`; on any device.
        column: a KL tokenizer.
    """
    import torch  # here, because actors that decode and commit start without it

    if values.dtype == torch.bfloat16:
        values = values.view(torch.int16)
    cells: NDArray[Any] = values.contiguous().cpu().numpy()
    return cells.view(np.uint16) if column.dtype == "bfloat16" else cells
