"""Latents as whole numbers of 5 to 8 bits, within the range of each channel of each clip.

A cell q of a channel stands for the number low + step · q. A row's scale is low of all channels,
then step of all channels: 2·C float32.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dataset.schema import TokenizerColumn

Floats = NDArray[np.float32]


def quantize(latents: Floats, bits: int) -> tuple[NDArray[np.uint8], Floats]:
    """Return the cells of N clips in [0, 2^bits - 1], and their scales.

    The cells of a clip that is not finite have no meaning, and its scale has a `scale_fault`.

    Args:
        latents: [N, C, …].
        bits: bits of a cell.

    Returns:
        Cells of the shape of the latents, and scales [N, 2·C].
    """
    inner = tuple(range(2, latents.ndim))
    with np.errstate(over="ignore", invalid="ignore"):
        low = latents.min(inner, keepdims=True)
        step = (latents.max(inner, keepdims=True) - low) / np.float32((1 << bits) - 1)
        step[step < np.finfo(np.float32).tiny] = 0  # also that of a channel with one value
        cells = latents - low
        cells /= np.where(step == 0, np.float32(np.inf), step)
        stored = np.rint(cells, out=cells).astype(np.uint8)
    return stored, np.concatenate([low, step], 1).reshape(len(latents), -1)


def dequantize(values: Floats, scale: Floats) -> None:
    """Replace the cells of one clip with the numbers that they stand for.

    Args:
        values: [C, …], cells as floats; overwritten.
        scale: [2·C].
    """
    low, step = scale.reshape(2, -1, *[1] * (values.ndim - 1))
    values *= step
    values += low


def scale_fault(scale: Any, channels: int, column: TokenizerColumn) -> str | None:
    """Return what is wrong with the scale of a row, with the column's name; None if nothing is.

    Args:
        scale: list or array of numbers.
        channels: C.
        column: a tokenizer with scales.
    """
    assert column.bits is not None
    [name] = column.scale_columns
    if len(scale) != 2 * channels:
        return f"{name}: {len(scale)} numbers, {channels} channels take {2 * channels}"
    low, step = np.array(scale, np.float32).reshape(2, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        high = low + step * np.float32((1 << column.bits) - 1)
    if not np.isfinite(high).all():
        return f"{name}: NaN or infinity"
    return f"{name}: the step {step.min()} is negative" if step.min() < 0 else None


def row_scale(row: Mapping[str, Any], column: TokenizerColumn) -> Floats | None:
    """Return the scale [2·C] of one row; None for a tokenizer without scales.

    Raises:
        pyarrow.ArrowInvalid: the scale is wrong.
    """
    for name in column.scale_columns:
        return _sound(row[name], row[f"{column.name}_shape"][0], column)
    return None


def column_scales(scales: pa.ChunkedArray, channels: int, column: TokenizerColumn) -> Floats:
    """Return the scales [rows, 2·C] of many rows.

    Raises:
        pyarrow.ArrowInvalid: a scale is wrong.
    """
    lists = scales.combine_chunks()
    if pc.any(pc.not_equal(pc.list_value_length(lists), 2 * channels)).as_py():
        for scale in lists.to_pylist():
            _sound(scale, channels, column)
    values: Floats = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, 2, channels)
    if len(values):  # all at once, as if they were the channels of one row
        _sound(values.swapaxes(0, 1).ravel(), len(values) * channels, column)
    return values.reshape(-1, 2 * channels)


def _sound(scale: Any, channels: int, column: TokenizerColumn) -> Floats:
    if fault := scale_fault(scale, channels, column):
        raise pa.ArrowInvalid(f"column {fault}")
    return np.array(scale, np.float32)
