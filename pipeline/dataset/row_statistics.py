"""The statistics of rows, as a unit records them when it is committed.

A sum of them depends on the set of rows and on the PSNR of those that were decoded back, not on
their order or batches.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dataset.cells import latent_values, stored_values
from pipeline.dataset.schema import TokenizerColumn
from pipeline.dataset.statistics import (
    SQUARE_BITS,
    SUM_BITS,
    BucketStatistics,
    LatentSums,
    LevelCounts,
    PsnrSums,
)

SIDES: Final = (144, 240, 360, 480, 720, 1080, 1440, 2160, 4320)
"""Bins of the shorter side of sources, in pixels; the last one also counts all larger sides."""


MAX_RATE: Final = 240
"""Largest bin of frames per second; it also counts all higher rates."""


_TENTHS: Final = tuple(range(0, 1001, 100))


_TWENTIETHS: Final = tuple(range(50, 1001, 50))


MEASURE_BINS: Final[dict[str, tuple[int, ...]]] = {
    "motion": (0, 50, 100, 200, 500, 1000, 2000, 3000, 5000, 8000, 100_000),
    "still": _TENTHS,
    "luma": _TWENTIETHS,
    "contrast": tuple(range(25, 501, 25)),
    "blur": _TWENTIETHS,
    "border": (0, 10, 20, 50, *_TENTHS[1:]),
    "duplicates": _TENTHS,
    "text_area": (0, 10, 20, 50, *_TENTHS[1:]),
}
"""Bins of the measures of `pipeline.decode.measures` in thousandths: each one's upper end. The last
one also counts all larger values."""


_INT64_BITS: Final = 62


def row_statistics(
    rows: pa.Table,
    columns: Sequence[TokenizerColumn],
    code_levels: Mapping[str, Sequence[int]],
    psnr: Mapping[str, PsnrSums] | None = None,
) -> BucketStatistics:
    """Return the statistics of rows of one bucket.

    Args:
        rows: at least one row, with the columns of a part.
        columns: the dataset's tokenizers.
        code_levels: numbers of levels of the channels, by FSQ tokenizer; learned codebooks have
            none, and no statistics.
        psnr: PSNR of the rows that were decoded back, by tokenizer.
    """
    frames = rows["num_frames"].to_pylist()
    times = zip(rows["start_s"].to_pylist(), rows["end_s"].to_pylist(), strict=True)
    sizes = zip(rows["source_height"].to_pylist(), rows["source_width"].to_pylist(), strict=True)
    captions = [text for text in rows["caption"].to_pylist() if text]
    latents, levels = {}, {}
    for column in columns:
        if column.kind == "embeddings":
            continue  # thousands of channels, whose sums would be most of a unit's record
        cells = rows[column.name]
        if column.kind == "latents":
            stored = rows.select([column.name, f"{column.name}_shape", *column.scale_columns])
            latents[column.name] = latent_sums(
                latent_values(row, column) for row in stored.to_pylist()
            )
        elif column.name in code_levels:
            indices = stored_values(cells, column)
            levels[column.name] = level_counts(indices, code_levels[column.name])
    return BucketStatistics(
        clips=rows.num_rows,
        frames=sum(frames),
        padded_frames=sum(rows["padded_frames"].to_pylist()),
        microseconds=sum(round(1e6 * (end - start)) for start, end in times),
        captions=len(captions),
        caption_characters=sum(map(len, captions)),
        metas=rows.num_rows - rows["meta"].null_count,
        lengths=_counted(1 << (n - 1).bit_length() for n in frames),
        sides=_counted(_side(min(size)) for size in sizes),
        rates=_counted(_rate(rate) for rate in rows["source_fps"].to_pylist()),
        measures={
            name: _counted(_measure(value, bins) for value in values if value is not None)
            for name, bins in MEASURE_BINS.items()
            if name in rows.column_names and (values := rows[name].to_pylist())
        },
        latents=latents,
        levels=levels,
        psnr=dict(psnr or {}),
    )


def latent_sums(latents: Iterable[NDArray[np.float64]]) -> LatentSums:
    """Return the sums over latents [C, …], at least one, all of the same C."""
    total: LatentSums | None = None
    for latent in latents:
        values = latent.reshape(len(latent), -1)
        sums = LatentSums(
            cells=values.shape[1],
            sums=_grid_sums(values, SUM_BITS),
            squares=_grid_sums(values * values, SQUARE_BITS),
        )
        total = sums if total is None else total + sums
    assert total is not None
    return total


def _grid_sums(values: NDArray[np.float64], bits: int) -> tuple[int, ...]:
    """Return the sum of each row [C, n] in units of 2^-bits; each value is rounded to one first."""
    grid = np.rint(values * 2.0**bits)
    if np.abs(grid).max(initial=0) * grid.shape[1] < 2**_INT64_BITS:
        return tuple(grid.astype(np.int64).sum(1).tolist())
    return tuple(sum(map(int, row)) for row in grid.tolist())


def level_counts(indices: NDArray[Any], levels: Sequence[int]) -> LevelCounts:
    """Return how often each channel takes each of its levels; indices are of any shape."""
    rest = indices.ravel().astype(np.int64)
    counts = []
    for count in levels:
        rest, digits = np.divmod(rest, count)
        counts.append(tuple(np.bincount(digits, minlength=count).tolist()))
    return LevelCounts(counts=tuple(counts))


def _side(pixels: int) -> int:
    return SIDES[min(bisect_left(SIDES, pixels), len(SIDES) - 1)]


def _measure(value: float, bins: Sequence[int]) -> int:
    thousandths = round(1000 * value, 3)  # a float32 is not exactly the decimal that it stands for
    return bins[min(bisect_left(bins, thousandths), len(bins) - 1)]


def _rate(rate: float) -> int:
    return min(int(rate + 0.5), MAX_RATE)


def _counted(values: Iterable[int]) -> dict[int, int]:
    return dict(sorted(Counter(values).items()))
