"""Arrays to the bytes of cells, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dataset.schema import _CLIP_FIELDS, TokenizerColumn, tokenizer_columns
from pipeline.records import Clip


def clip_rows(
    clips: Sequence[Clip], cells: Mapping[str, NDArray[Any]], schema: pa.Schema
) -> pa.RecordBatch:
    """Return the rows of clips of one shape.

    Args:
        clips: N clips.
        cells: for each cell column (`N`, and `N_logvar`) an array [N, …] of the stored dtype.
        schema: of `clip_schema`.

    Raises:
        ValueError: an array does not fit the clips or the column's dtype.
    """
    columns: dict[str, Any] = {
        field.name: [getattr(clip, field.name) for clip in clips] for field in _CLIP_FIELDS
    }
    for column in tokenizer_columns(schema):
        for name in column.cell_columns:
            columns[name] = _binary(name, cells[name], len(clips), column.stored_dtype)
        shape = cells[column.name].shape[1:]
        if column.logvar and cells[f"{column.name}_logvar"].shape[1:] != shape:
            raise ValueError(
                f"{column.name}: mean {shape}, logvar {cells[f'{column.name}_logvar'].shape[1:]}"
            )
        columns[f"{column.name}_shape"] = [shape] * len(clips)
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


def latent_values(
    data: bytes, shape: Sequence[int], column: TokenizerColumn
) -> NDArray[np.float64]:
    """Return the latent of one row as [C, …] float64."""
    cells: NDArray[Any] = np.frombuffer(data, column.stored_dtype).reshape(shape)
    if column.dtype == "bfloat16":
        cells = (cells.astype("<u4") << 16).view("<f4")
    return cells.astype(np.float64)
