"""Distribution of the latents of each channel, from a few random clips.

The log holds mean and deviation over all clips, but not the distribution. Parts are read for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dataset.cells import latent_values
from pipeline.dataset.log.manifest import Manifest
from pipeline.dataset.metadata import Dataset
from pipeline.dataset.row_sampling import draw_rows, read_row
from pipeline.dataset.statistics import LatentSums
from pipeline.errors import one_line
from pipeline.storage.store import Store

REACH: Final = 4
"""Number of standard deviations to either side of a channel's mean that the bins cover."""


EDGES: Final = np.linspace(-REACH, REACH, 42)
"""Edges of 41 bins, the middle one around the mean, in standard deviations from the mean."""


_DRAWN: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentHistograms:
    """Histograms over some random clips."""

    clips: int
    """Number of clips that were read."""
    counts: dict[str, NDArray[np.int64]]
    """By KL tokenizer [C, 43]: values below the first edge, in each bin, from the last edge on."""
    unread: tuple[str, ...]
    """Errors of clips that could not be read."""


def draw_histograms(
    store: Store,
    dataset: Dataset,
    manifest: Manifest,
    sums: Mapping[str, LatentSums],
    *,
    count: int = _DRAWN,
    seed: int = 0,
) -> LatentHistograms:
    """Return histograms of the latents of some random clips, scaled by their channels' moments.

    Args:
        store: the dataset's root.
        dataset: its metadata.
        manifest: what counts.
        sums: sums over the whole dataset, by tokenizer; others get no histogram.
        count: number of clips; for each, the token columns of one row group are read.
        seed: random seed for the clips.

    Raises:
        StoreError: the store refuses.
    """
    columns = [column for column in dataset.tokenizers if column.name in sums]
    names = [name for c in columns for name in (c.name, f"{c.name}_shape", *c.scale_columns)]
    moments = {name: (np.array(s.mean()), np.array(s.std())) for name, s in sums.items()}
    counts = {
        column.name: np.zeros((len(sums[column.name].sums), len(EDGES) + 1), np.int64)
        for column in columns
    }
    clips, unread = 0, []
    for drawn in draw_rows(manifest, count, seed) if columns else ():
        try:
            row = read_row(store, drawn, names)
        except (pa.ArrowException, OSError) as error:
            unread.append(f"{drawn.part.path}: {one_line(error)}")
            continue
        clips += 1
        for column in columns:
            counts[column.name] += histogram(latent_values(row, column), *moments[column.name])
    return LatentHistograms(clips=clips, counts=counts, unread=tuple(unread))


def histogram(
    latent: NDArray[np.float64], mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return the number of values of a latent in each bin of its channel.

    Args:
        latent: [C, …].
        mean: [C].
        std: [C]; 0 counts as 1.

    Returns:
        [C, 43]: values below the first edge, in each bin, and from the last edge on or NaN.
    """
    values = latent.reshape(len(latent), -1) - mean[:, np.newaxis]
    values /= np.where(std > 0, std, 1)[:, np.newaxis]
    bins = np.searchsorted(EDGES, values, side="right")
    return np.stack([np.bincount(row, minlength=len(EDGES) + 1) for row in bins])
