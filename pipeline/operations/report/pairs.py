"""Animated pictures of clips beside what their tokens decode to, for the page of a dataset."""

import io
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.dataset.log.manifest import Manifest
from pipeline.dataset.metadata import Dataset
from pipeline.dataset.row_sampling import draw_rows
from pipeline.operations.findings import Finding
from pipeline.operations.recompute import Recomputer
from pipeline.storage.store import Store

DRAWN_PER_PAIR: Final = 4
"""Number of clips that are decoded for each one that is shown, to find the worst and the best."""


_MAX_FRAMES: Final = 33


_QUALITY: Final = 80
"""Quality of WebP, of 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One clip as an animated picture."""

    clip_id: str
    caption: str
    psnr_db: dict[str, float]
    """PSNR in dB by tokenizer, in the order of the picture."""
    panels: list[str]
    """Labels of what the picture shows, left to right: the original, then each tokenizer."""
    webp: bytes

    @property
    def mean_db(self) -> float:
        """Mean over tokenizers in dB."""
        return fmean(self.psnr_db.values())


def draw_pairs(
    store: Store, dataset: Dataset, manifest: Manifest, count: int
) -> tuple[list[Pair], list[Finding]]:
    """Return the worst and the best of some random clips, the worst first.

    Args:
        store: the dataset's root.
        dataset: its metadata.
        manifest: what counts.
        count: number of clips of each kind; four times as many clips are decoded.

    Returns:
        At most 2 · count pairs, and findings about clips that could not be decoded again.

    Raises:
        ConfigError: the dataset's models cannot be loaded.
        StoreError: the dataset's store refuses.
    """
    pairs, findings = [], []
    with closing(Recomputer(store, dataset, retokenize=False, decode=True)) as recomputer:
        for found in recomputer.clips(draw_rows(manifest, DRAWN_PER_PAIR * count, seed=0)):
            if isinstance(found, Finding):
                findings.append(found)
                continue
            clip = recomputer.decode(found)
            pair = Pair(
                clip_id=clip.row["clip_id"],
                caption=clip.row["caption"] or "",
                psnr_db=clip.psnr_db,
                panels=[panel.label for panel in clip.panels],
                webp=animated(clip.side_by_side, 1 / clip.fps),
            )
            pairs.append(pair)
    pairs.sort(key=lambda pair: pair.mean_db)
    if len(pairs) > 2 * count:
        pairs = pairs[:count] + pairs[-count:]
    return pairs, findings


def animated(frames: NDArray[np.uint8], frame_s: float) -> bytes:
    """Return the first 33 frames [T, H, W, 3] as a WebP that loops."""
    images = [Image.fromarray(frame) for frame in frames[:_MAX_FRAMES]]
    file = io.BytesIO()
    images[0].save(
        file,
        "WEBP",
        save_all=True,
        append_images=images[1:],
        duration=max(20, round(1000 * frame_s)),
        loop=0,
        quality=_QUALITY,
    )
    return file.getvalue()
