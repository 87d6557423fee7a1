"""Checks the cells of one row group: their number, their shape, and that each is a value at all."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import vidtok
from pipeline.dataset import Dataset
from pipeline.errors import StoreError
from pipeline.findings import Finding, Kind
from pipeline.parts import TokenizerColumn

_BF16_EXPONENT: Final = 0x7F80
"""All exponent bits of a bfloat16: set in NaN and in both infinities, and in nothing else."""


def expected_shape(dataset: Dataset, column: TokenizerColumn, bucket: str) -> list[int]:
    """Return the shape that a tokenizer gives to the clips of a bucket, as `N_shape` holds it.

    Raises:
        StoreError: `dataset.json` or the bucket's name does not say.
    """
    where = f"dataset.json: identity.tokenizers.{column.name}.config"
    try:
        values = dataset.identity["tokenizers"][column.name]["config"]
        config = vidtok.TokenizerConfig.from_dict({**values, "name": column.model})
        frames, height, width = map(int, bucket.split("x"))
        shape = config.latent_shape(frames, height, width)
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{where} and bucket {bucket!r}: {error!r}; restore them") from error
    return list(shape if "c" in column.axes else shape[1:])


def check_cells(
    rows: pa.Table, column: TokenizerColumn, shape: Sequence[int], where: str
) -> Iterator[Finding]:
    """Yield what is wrong with one tokenizer's cells.

    Args:
        rows: of one row group, with `clip_id` and the tokenizer's columns.
        column: the tokenizer.
        shape: that every row has to have.
        where: path of the part.
    """
    wanted = int(np.prod(shape)) * column.stored_dtype.itemsize
    good = np.array([found == list(shape) for found in rows[f"{column.name}_shape"].to_pylist()])
    if not good.all():
        found = rows[f"{column.name}_shape"][int(np.argmin(good))].as_py()
        text = f"{column.name}_shape {found}, the model gives {list(shape)}"
        yield _finding("shape", rows, ~good, where, text)
    for name in column.cell_columns:
        lengths = pc.binary_length(rows[name]).to_numpy()
        full = lengths == wanted
        if (short := good & ~full).any():
            text = f"{name}: {lengths[short][0]} bytes, {list(shape)} {column.dtype} take {wanted}"
            yield _finding("shape", rows, short, where, text)
        if not (usable := good & full).any():
            continue
        alive = rows.filter(pa.array(usable))
        cells = np.frombuffer(b"".join(alive[name].to_pylist()), column.stored_dtype)
        bad = _bad(cells, column).reshape(alive.num_rows, -1)
        rows_with_bad: NDArray[np.bool_] = np.any(bad, axis=1)
        if not rows_with_bad.any():
            continue
        if column.kind == "fsq":
            text = f"{name}: index {cells[bad.ravel()][0]}, the codebook has {column.codebook_size}"
            yield _finding("range", alive, rows_with_bad, where, text)
        else:
            count = bad[rows_with_bad][0].sum()
            text = f"{name}: NaN or infinity in {count} of {bad.shape[1]} cells"
            yield _finding("non_finite", alive, rows_with_bad, where, text)


def _bad(cells: NDArray[Any], column: TokenizerColumn) -> NDArray[np.bool_]:
    bad: NDArray[np.bool_]
    if column.codebook_size is not None:
        # As Python's integers: 65536 is no uint16.
        bad = cells.astype(np.int64) >= column.codebook_size
    elif column.dtype == "bfloat16":
        bad = (cells & _BF16_EXPONENT) == _BF16_EXPONENT
    else:
        bad = ~np.isfinite(cells)
    return bad


def _finding(kind: Kind, rows: pa.Table, bad: NDArray[np.bool_], where: str, text: str) -> Finding:
    """Return one finding for all rows that share a fault; the text is about the first."""
    first = rows["clip_id"][int(np.argmax(bad))].as_py()
    return Finding(kind, where, f"{int(bad.sum())} rows, first {first}: {text}")
