"""A tokenizer that costs nothing and fails when a clip tells it to, and clips to feed it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.dataset.schema import TokenizerColumn
from pipeline.records import Bucket, Clip
from pipeline.stages.messages import BatchHeader, BatchRow

FSQ = TokenizerColumn(
    name="fsq",
    kind="indices",
    dtype="uint32",
    axes=("t", "h", "w"),
    model="fake",
    fingerprint="0" * 32,
    codebook_size=1 << 18,
)
KL = TokenizerColumn(
    name="kl",
    kind="latents",
    dtype="float16",
    axes=("c", "t", "h", "w"),
    model="fake",
    fingerprint="1" * 32,
    logvar=True,
)
BUCKET = Bucket(frames=5, height=16, width=24)

POISON = 201
"""A clip whose first pixel has this value makes the model raise."""
NOT_A_NUMBER = 202
"""A clip whose first pixel has this value comes out as NaN."""


@dataclass
class FakeEncoded:
    latent: Tensor
    indices: Tensor | None = None
    mean: Tensor | None = None
    logvar: Tensor | None = None


class FakeModel:
    """Averages blocks of 8 x 8 pixels of every frame: enough to see which clip is which."""

    failure = "device says no\nwith a second line"

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.batches: list[int] = []
        self.broken = False
        self.memory = 1 << 30
        """Clips that fit the imaginary GPU."""
        self.decoded = 0
        self.cannot_decode: set[int] = set()
        """Calls of `decode` that fail, counted from 1."""

    def encode(self, video: Tensor) -> FakeEncoded:
        self.batches.append(len(video))
        if len(video) > self.memory:
            raise torch.OutOfMemoryError("imaginary GPU")
        first = ((video[:, 0, 0, 0, 0].float() + 1) * 127.5).round()
        if self.broken or bool((first == POISON).any()):
            raise RuntimeError(self.failure)
        mean = torch.nn.functional.avg_pool3d(video.float(), (1, 8, 8))
        mean[first == NOT_A_NUMBER] = float("nan")
        if self.kind == "kl":
            return FakeEncoded(latent=mean, mean=mean, logvar=-mean.abs())
        indices = ((mean[:, 0] + 1) * 1000).nan_to_num().to(torch.int32)
        return FakeEncoded(latent=mean, indices=indices)

    def decode(self, cells: Tensor, num_frames: int) -> Tensor:
        """Repeat each cell's value all over its block."""
        latent = cells
        if self.kind != "kl":
            grey = (cells.to(torch.int64).float() + 0.5) / 1000 - 1
            latent = grey[:, None].expand(-1, 3, -1, -1, -1)
        self.decoded += 1
        if self.decoded in self.cannot_decode:
            raise torch.OutOfMemoryError("imaginary GPU")
        assert latent.shape[2] == num_frames
        return torch.nn.functional.interpolate(latent, scale_factor=(1, 8, 8))


def clip(n: int, unit: str = "u", key: str = "k") -> Clip:
    return Clip(
        unit=unit,
        key=key,
        clip_index=n,
        start_s=n * 0.5,
        end_s=n * 0.5 + 0.5,
        source_fps=10.0,
        source_height=32,
        source_width=48,
        crop=(0.0, 0.0, 32.0, 48.0),
        num_frames=BUCKET.frames,
    )


def frames(num_clips: int, first_pixels: dict[int, int] | None = None) -> NDArray[Any]:
    """[N, T, H, W, 3] of noise; `first_pixels` gives some clips a mark."""
    rng = np.random.default_rng(7)
    shape = (num_clips, BUCKET.frames, BUCKET.height, BUCKET.width, 3)
    made = rng.integers(0, 200, shape, np.uint8)
    for n, value in (first_pixels or {}).items():
        made[n, 0, 0, 0, 0] = value
    return made


def batch_row(num_clips: int, first_pixels: dict[int, int] | None = None) -> BatchRow:
    clips = tuple(clip(n) for n in range(num_clips))
    header = BatchHeader(unit="u", seq=0, bucket=BUCKET, clips=clips)
    made = frames(num_clips, first_pixels)
    made.setflags(write=False)  # as Ray hands it out
    return BatchRow(header, made)
