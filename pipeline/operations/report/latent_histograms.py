"""How the latents of each channel are distributed, from a few clips drawn at random.

Mean and deviation are known of all clips, from the log. The shape is not: parts are read for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dataset.cells import latent_values
from pipeline.dataset.manifest import Manifest
from pipeline.dataset.metadata import Dataset
from pipeline.dataset.row_sampling import draw_rows, read_row
from pipeline.dataset.statistics import LatentSums
from pipeline.storage.store import Store

REACH: Final = 4
"""Standard deviations to either side of a channel's mean that are counted in bins."""


EDGES: Final = np.linspace(-REACH, REACH, 42)
"""Of 41 bins, so that one has the mean in its middle; in standard deviations from it."""


_DRAWN: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentHistograms:
    """Of one draw."""

    clips: int
    """That were read."""
    counts: dict[str, NDArray[np.int64]]
    """By KL tokenizer [C, 43]: values below the first edge, in each bin, from the last edge on."""
    unread: tuple[str, ...]
    """Why other clips were not."""


def draw_histograms(
    store: Store,
    dataset: Dataset,
    manifest: Manifest,
    sums: Mapping[str, LatentSums],
    *,
    count: int = _DRAWN,
    seed: int = 0,
) -> LatentHistograms:
    """Return where the latents of some clips lie between what is usual for their channels.

    Args:
        store: the dataset's root.
        dataset: its head.
        manifest: what counts.
        sums: by tokenizer, of the whole dataset; those that are missing get no histogram.
        count: clips; a row group's token columns are read for each, the rest of it is not.
        seed: of the draw.

    Raises:
        StoreError: the store refuses.
    """
    columns = [column for column in dataset.tokenizers if column.name in sums]
    names = [name for column in columns for name in (column.name, f"{column.name}_shape")]
    places = {name: (np.array(s.mean()), np.array(s.std())) for name, s in sums.items()}
    counts = {
        column.name: np.zeros((len(sums[column.name].sums), len(EDGES) + 1), np.int64)
        for column in columns
    }
    clips, unread = 0, []
    for drawn in draw_rows(manifest, count, seed) if columns else ():
        try:
            row = read_row(store, drawn, names)
        except (pa.ArrowException, OSError) as error:
            unread.append(f"{drawn.part.path}: {error}")
            continue
        clips += 1
        for column in columns:
            latent = latent_values(row[column.name], row[f"{column.name}_shape"], column)
            counts[column.name] += _counted(latent, *places[column.name])
    return LatentHistograms(clips=clips, counts=counts, unread=tuple(unread))


def _counted(
    latent: NDArray[np.float64], mean: NDArray[np.float64], std: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Return [C, 43] for a latent [C, …]; NaN counts as beyond the last edge."""
    values = latent.reshape(len(latent), -1) - mean[:, np.newaxis]
    values /= np.where(std > 0, std, 1)[:, np.newaxis]
    bins = np.searchsorted(EDGES, values, side="right")
    return np.stack([np.bincount(row, minlength=len(EDGES) + 1) for row in bins])
