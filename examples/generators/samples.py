"""New clips from a trained generator, beside the nearest clips of the corpus.

A generator that has seen few clips repeats them. So the picture shows each sample above its nearest
clip, and the result holds their distance: copies become visible.
"""

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from examples.generators.clips import clip_buckets
from pipeline.reading import Snapshot, TokenDataset, TokenizerColumn, TokenMap
from pipeline.storage import Store
from pipeline.tokenizers import VideoTokenizer, VidTok, as_bytes, open_models

_COMPARED_BATCHES = 64
_COMPARED_BATCH = 16
_FRAMES_SHOWN = 5
_GAP = 4
_FPS_OF_SOURCES = 25
"""Frame rate of the GIF for a dataset of every source frame: a guess."""

Frames = NDArray[np.uint8]
"""[T, H, W, 3]."""


def draw_samples(
    generator: nn.Module,
    corpus: Snapshot,
    column: TokenizerColumn,
    num: int,
    store: Store,
    channels: int | None,
) -> dict[str, Any]:
    """Write `samples.gif`, samples side by side, and `samples.jpg`, some frames of each.

    The samples have the shape of the corpus's largest bucket.

    Args:
        generator: a generator as `training.Build` describes it.
        corpus: dataset that it was trained on.
        column: column that it generates.
        num: number of samples.
        store: store to write to.
        channels: number of FSQ channels that it generates; None for all, and for latents.

    Returns:
        `nearest`, the distance of each sample to the nearest of the corpus's first `compared`
        clips, in `distance_unit`.
    """
    bucket = max(clip_buckets(corpus), key=lambda name: corpus.buckets[name])
    like = TokenMap(corpus, [column.name, "num_frames"], buckets=[bucket])[0]
    cells = generator.sample(num, tuple(like[column.name].shape))
    nearest, distances, compared = _nearest(generator, cells, corpus, column, bucket, channels)
    model, frames = open_models(corpus.dataset)[column.name], int(like["num_frames"])
    samples = [_decode(model, one, frames, channels) for one in cells.cpu()]
    copied = [_decode(model, one, frames, channels) for one in nearest]
    fps = frame_rate(corpus.dataset.identity["clip"]["fps"])
    store.write("samples.gif", _gif(samples, fps))
    pairs = zip(samples, copied, strict=True)
    store.write("samples.jpg", strips([clip for pair in pairs for clip in pair]))
    return {
        "nearest": [round(float(distance), 3) for distance in distances],
        "compared": compared,
        "distance_unit": generator.distance_unit,
    }


def _nearest(
    generator: nn.Module,
    cells: Tensor,
    corpus: Snapshot,
    column: TokenizerColumn,
    bucket: str,
    channels: int | None,
) -> tuple[list[Tensor], Tensor, int]:
    """Return the nearest clip of each sample, its distance, and the number of clips compared."""
    data = TokenDataset(
        corpus,
        [column.name],
        _COMPARED_BATCH,
        buckets=[bucket],
        shuffle=False,
        rank=0,
        world=1,
        channels={} if channels is None else {column.name: channels},
    )
    best = torch.full((len(cells),), torch.inf)
    nearest: list[Tensor] = [cells[0]] * len(cells)
    compared = 0
    for _, batch in zip(range(_COMPARED_BATCHES), data, strict=False):
        others = batch[column.name]
        compared += len(others)
        distances, which = generator.distances(cells, others.to(cells.device)).cpu().min(1)
        for n in (distances < best).nonzero().flatten().tolist():
            best[n], nearest[n] = distances[n], others[which[n]]
    return nearest, best, compared


def _decode(model: VideoTokenizer, cells: Tensor, frames: int, channels: int | None) -> Frames:
    """Return the frames that the cells of one clip decode to."""
    if channels is not None:
        assert isinstance(model, VidTok)  # no other tokenizer has an order of channels
        return as_bytes(model.decode_prefixes(cells[None], frames, channels))
    one = cells[None] if model.facts.kind == "indices" else cells[None].float()
    return as_bytes(model.decode(one, frames))


def frame_rate(fps: float | list[float | None] | None) -> float:
    """Return the frame rate of a dataset's clips, the first of several."""
    first = fps[0] if isinstance(fps, list) else fps
    return first or _FPS_OF_SOURCES


def _gif(clips: list[Frames], fps: float) -> bytes:
    pictures = [Image.fromarray(frame) for frame in np.concatenate(clips, axis=2)]
    file = io.BytesIO()
    duration_ms = round(1000 / fps)
    pictures[0].save(
        file, "GIF", save_all=True, append_images=pictures[1:], duration=duration_ms, loop=0
    )
    return file.getvalue()


def strips(clips: list[Frames]) -> bytes:
    """Return a JPEG: a row of evenly spaced frames per clip, in pairs of clips."""
    shown = np.linspace(0, len(clips[0]) - 1, min(_FRAMES_SHOWN, len(clips[0]))).round().astype(int)
    width = clips[0].shape[2]
    rows: list[Frames] = []
    for n, clip in enumerate(clips):
        rows.append(np.concatenate(clip[shown], axis=1))
        gap = _GAP if n % 2 else 1
        rows.append(np.full((gap, width * len(shown), 3), 255, np.uint8))
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "JPEG", quality=85)
    return file.getvalue()
