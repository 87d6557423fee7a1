"""Clips of a dataset beside what their tokens decode to, moving, for its page."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.metadata import Dataset
from pipeline.dataset.records import UnitRecord
from pipeline.dataset.row_sampling import draw_rows, read_row
from pipeline.operations.findings import Finding
from pipeline.operations.recompute import Again, Row
from pipeline.records import Sample
from pipeline.storage.store import Store
from pipeline.tokenizers.reconstruction import clip_psnr, eight_bits

DRAWN_PER_PAIR: Final = 4
"""So many clips are decoded for each pair that is shown, to find the worst and the best of them."""


_MAX_FRAMES: Final = 33


_QUALITY: Final = 80
"""Of WebP: of 100."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One clip: what the source shows, then what each tokenizer kept."""

    clip_id: str
    caption: str
    psnr_db: dict[str, float]
    """By tokenizer, in the order of the picture."""
    webp: bytes
    """Original and decoded clips, left to right, animated."""

    @property
    def mean_db(self) -> float:
        """The mean over tokenizers."""
        return sum(self.psnr_db.values()) / len(self.psnr_db)


def draw_pairs(
    store: Store, dataset: Dataset, manifest: Manifest, count: int, seed: int = 0
) -> tuple[list[Pair], list[Finding]]:
    """Return the worst and the best of some random clips, the worst first.

    Args:
        store: the dataset's root.
        dataset: its head.
        manifest: what counts.
        count: pairs of each kind; four times as many clips are drawn and decoded.
        seed: of the draw.

    Returns:
        At most 2 · count pairs, and why other clips have none.

    Raises:
        ConfigError: the dataset's models are not to be had.
        StoreError: a part cannot be read.
    """
    samples: dict[tuple[str, str], tuple[UnitRecord, list[Row]]] = {}
    for drawn in draw_rows(manifest, DRAWN_PER_PAIR * count, seed):
        row: Row = read_row(store, drawn)
        samples.setdefault((row["unit"], row["key"]), (drawn.unit, []))[1].append(row)
    pairs, findings = [], []
    with Again(dataset, retokenize=False, decode=True) as again:
        for unit, rows in samples.values():
            for found in again.clips(unit, rows):
                if isinstance(found, Finding):
                    findings.append(found)
                    continue
                row, _, frames = found
                assert not isinstance(frames, Sample)  # `Again` refuses
                original = eight_bits(frames)
                pairs.append(_pair(row, original, again.decoded(row, len(original))))
    pairs.sort(key=lambda pair: pair.mean_db)
    if len(pairs) > 2 * count:
        pairs = pairs[:count] + pairs[-count:]
    return pairs, findings


def _pair(row: Row, original: NDArray[np.uint8], decoded: Mapping[str, NDArray[np.uint8]]) -> Pair:
    seconds = (row["end_s"] - row["start_s"]) / max(1, row["num_frames"] - row["padded_frames"])
    return Pair(
        clip_id=row["clip_id"],
        caption=row["caption"] or "",
        psnr_db={name: clip_psnr(original, clip) for name, clip in decoded.items()},
        webp=animated(np.concatenate([original, *decoded.values()], axis=2), seconds),
    )


def animated(frames: NDArray[np.uint8], frame_s: float) -> bytes:
    """Return frames [T, H, W, 3] as a WebP that runs for ever; of a long clip its beginning."""
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
