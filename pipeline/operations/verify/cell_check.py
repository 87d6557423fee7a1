"""Checks the cells of one row group: their number, their shape, and the range of their values."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dataset.cells import numbers, stored_values
from pipeline.dataset.quantized import scale_fault
from pipeline.dataset.schema import TokenizerColumn
from pipeline.formatting import counted
from pipeline.operations.findings import Finding


def check_cells(
    rows: pa.Table, column: TokenizerColumn, shapes: Sequence[Sequence[int]], where: str
) -> Iterator[Finding]:
    """Yield what is wrong with one tokenizer's cells.

    Args:
        rows: rows of one row group, with `clip_id` and the tokenizer's columns.
        column: the tokenizer.
        shapes: required shapes, one for each row.
        where: path of the part.
    """
    found = rows[f"{column.name}_shape"].to_pylist()
    wanted = np.array([column.cell_bytes(shape) for shape in shapes], np.int64)
    sizes = wanted // column.stored_dtype.itemsize
    good = np.array([one == list(shape) for one, shape in zip(found, shapes, strict=True)])
    if not good.all():
        n = int(np.argmin(good))
        text = f"{column.name}_shape {found[n]}, the model gives {list(shapes[n])}"
        yield _finding("shape", rows, ~good, where, text)
    for name in column.scale_columns:
        scales = zip(rows[name].to_pylist(), shapes, strict=True)
        faults = [scale_fault(scale, shape[0], column) or "" for scale, shape in scales]
        if text := next(filter(None, faults), ""):
            yield _finding("scale", rows, np.array(faults) != "", where, text)
    for name in column.cell_columns:
        lengths = pc.binary_length(rows[name]).to_numpy()
        full = lengths == wanted
        if (short := good & ~full).any():
            n = int(np.argmax(short))
            takes = f"{list(shapes[n])} {column.dtype} take {wanted[n]}"
            text = f"{name}: {lengths[n]} bytes, {takes}"
            yield _finding("shape", rows, short, where, text)
        if not (usable := good & full).any():
            continue
        alive = rows.filter(pa.array(usable))
        cells = stored_values(alive[name], column)
        bad = _bad(cells, column)
        whose = np.repeat(np.arange(alive.num_rows), sizes[usable])
        counts = np.bincount(whose[bad], minlength=alive.num_rows)
        rows_with_bad: NDArray[np.bool_] = counts > 0
        if not rows_with_bad.any():
            continue
        if column.kind == "indices":
            text = f"{name}: index {cells[bad][0]}, the codebook has {column.codebook_size}"
            yield _finding("range", alive, rows_with_bad, where, text)
        elif column.bits is not None:
            most = (1 << column.bits) - 1
            text = f"{name}: cell {cells[bad][0]}, the most of {column.bits} bits is {most}"
            yield _finding("range", alive, rows_with_bad, where, text)
        else:
            n = int(np.argmax(rows_with_bad))
            text = f"{name}: NaN or infinity in {counts[n]} of {sizes[usable][n]} cells"
            yield _finding("non_finite", alive, rows_with_bad, where, text)


def _bad(cells: NDArray[Any], column: TokenizerColumn) -> NDArray[np.bool_]:
    bad: NDArray[np.bool_]
    if column.codebook_size is not None:
        # In int64, because a codebook of 65536 codes does not fit uint16.
        bad = cells.astype(np.int64) >= column.codebook_size
    elif column.bits is not None:
        bad = cells > (1 << column.bits) - 1
    else:
        bad = ~np.isfinite(numbers(cells, column))
    return bad


def _finding(kind: str, rows: pa.Table, bad: NDArray[np.bool_], where: str, text: str) -> Finding:
    """Return one finding for all rows with the same fault; the text describes the first."""
    first = rows["clip_id"][int(np.argmax(bad))].as_py()
    return Finding(kind, where, f"{counted(int(bad.sum()), 'row')}, first {first}: {text}")
