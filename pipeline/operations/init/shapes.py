"""Shapes of clips that fit a sample of videos, and models that take them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from statistics import fmean, median
from typing import Final

import numpy as np

from pipeline.dataset.schema import index_dtype
from pipeline.decode.buckets import best_size
from pipeline.operations.init.survey import Seen
from pipeline.records import Bucket
from pipeline.tokenizers.checks import clip_faults
from pipeline.tokenizers.facts import Facts, vidtok_facts
from vidtok.presets import PRESETS

_SIDES: Final = (256, 128, 64)
"""Sides of a square clip in pixels, the preferred first; other shapes have about its area."""

_RATIOS: Final = ((1, 1), (9, 16), (16, 9), (3, 4), (4, 3))
"""Ratios of height to width."""

_MOST_SHAPES: Final = 3

_LEAST_SHARE: Final = 0.1
"""Share of the videos that a shape must suit best to be chosen."""

_LENGTHS: Final = ((17, 8.0), (17, None), (9, None), (5, None))
"""Frames and frame rates of clips, the preferred first. None is the rate of the source."""

_FILLING: Final = 0.5
"""Share of the videos that must fill a clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Shapes of clips."""

    buckets: tuple[Bucket, ...]
    fps: float | None
    """Frame rate of the clips; None is that of each source."""


def fitting_shapes(seen: Sequence[Seen], facts: Facts) -> Shapes:
    """Return shapes that a model takes and that suit a sample of videos and images.

    Images get shapes of one frame, if the model takes one frame.

    Args:
        seen: at least one video or image.
        facts: facts of the model.
    """
    videos = [one for one in seen if not one.is_image]
    images = [one for one in seen if one.is_image and 1 in facts.lengths]
    frames, fps = _length(videos, facts)
    buckets = [Bucket(frames=frames, height=h, width=w) for h, w in _sizes(videos, facts)]
    buckets += [Bucket(frames=1, height=h, width=w) for h, w in _sizes(images, facts)]
    return Shapes(buckets=tuple(dict.fromkeys(buckets)), fps=fps)


def _length(videos: Sequence[Seen], facts: Facts) -> tuple[int, float | None]:
    """Return the preferred length and rate of clips that most videos fill."""
    for wanted, fps in _LENGTHS:
        frames = facts.lengths.near(wanted)[0]
        rates = [one.facts.fps or 0.0 for one in videos]
        if fps is not None and rates and median(rates) < fps:
            continue
        if not videos or fmean(clips_of(one, frames, fps) >= 1 for one in videos) >= _FILLING:
            break
    return frames, fps


def clips_of(video: Seen, frames: int, fps: float | None) -> float:
    """Return the number of clips of a video; 1 if its length is not known."""
    rate = fps or video.facts.fps
    if video.length_s is None or not rate:
        return 1.0
    return float(round(video.length_s * rate) // frames)


def _sizes(seen: Sequence[Seen], facts: Facts) -> list[tuple[int, int]]:
    """Return the sizes in which the pictures lose least, the most frequent first."""
    if not seen:
        return []
    pictures = [(one.facts.height, one.facts.width) for one in seen]
    side = next((s for s in _SIDES if median(map(min, pictures)) >= s), _SIDES[-1])
    step = max(facts.spatial_factor, side // 8)
    sizes = [
        (max(step, round(side * sqrt(h / w) / step) * step),
         max(step, round(side * sqrt(w / h) / step) * step))
        for h, w in _RATIOS
    ]  # fmt: skip
    counts = Counter(best_size(picture, sizes) for picture in pictures).most_common(_MOST_SHAPES)
    return [
        size for n, (size, count) in enumerate(counts) if not n or count >= _LEAST_SHARE * len(seen)
    ]


def fitting_models(shapes: Shapes) -> Iterator[tuple[str, Facts]]:
    """Yield the models of VidTok that take all shapes, with their facts."""
    for name, config in PRESETS.items():
        facts = vidtok_facts(config)
        sizes = [(one.frames, one.height, one.width) for one in shapes.buckets]
        if not any(fault for size in sizes for fault in clip_faults(facts, name, *size)):
            yield name, facts


def cell_bytes(facts: Facts, bucket: Bucket) -> int:
    """Return the bytes of a clip's cells before compression: latents are in float16."""
    channels, *cells = facts.latent_shape(bucket.frames, bucket.height, bucket.width)
    if facts.codebook_size is not None:
        return prod(cells) * np.dtype(index_dtype(facts.codebook_size)).itemsize
    return channels * prod(cells) * np.dtype(np.float16).itemsize
