"""The baseline "shrink and enlarge": a tokenizer's latent grid as a small video.

The clip is shrunk to the t×h×w of the latent, with three colours of 8 bits in each cell, and
enlarged again. A tokenizer that is not better has learned only to resize.

The interpolation is the one with the highest PSNR. In space it is antialiased bicubic down and
bicubic up. In time it is the mean of the frames of a latent frame, and linear between the middles
of these runs. On test videos at 17×128×128 this gives 22.2 dB. Average pooling and trilinear
enlarging give 21.7 dB with `align_corners` false and 21.1 dB with true.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.evaluation.candidate import Reconstruction
from pipeline.tokenizers.protocol import Facts
from vidtok.evaluation.rate import coded_bits

CELL_BITS = 24


class ShrinkAndEnlarge:
    """A candidate with as many cells as a tokenizer's latent."""

    def __init__(self, facts: Facts, name: str) -> None:
        self.name = name
        self._f = facts.temporal_factor
        self._s = facts.spatial_factor

    def reconstruct(self, video: Tensor, clip_id: str) -> Reconstruction:
        """Shrink a clip `[1, 3, T, H, W]` in [-1, 1] and enlarge it again."""
        length, height, width = video.shape[2:]
        bounds = run_bounds(length, self._f)
        grid = torch.stack([video[:, :, start:end].mean(2) for start, end in pairwise(bounds)], 2)
        grid = _in_space(grid, (height // self._s, width // self._s), antialias=True)
        levels = (grid.clamp(-1, 1) * 127.5 + 127.5).round()
        grid = levels / 127.5 - 1
        cells = grid.shape[2] * grid.shape[3] * grid.shape[4]
        return Reconstruction(
            video=_in_time(_in_space(grid, (height, width), antialias=False), bounds),
            bits=float(cells * CELL_BITS),
            coded_bits=float(coded_bits(levels[0], [256] * 3)),
        )


def run_bounds(length: int, f: int) -> list[int]:
    """Return the first frame of each latent frame's run of frames, and the end.

    All runs have f frames except the first, which has the rest: one of 17 frames for f = 4.
    """
    first = length - (-(-length // f) - 1) * f
    return [0, *range(first, length + 1, f)]


def _in_space(video: Tensor, size: tuple[int, int], *, antialias: bool) -> Tensor:
    frames = video[0].transpose(0, 1)
    frames = F.interpolate(frames, size, mode="bicubic", antialias=antialias, align_corners=False)
    return frames.transpose(0, 1)[None]


def _in_time(grid: Tensor, bounds: list[int]) -> Tensor:
    """Return a frame for each moment: linear between the middles of runs, constant outside."""
    if grid.shape[2] == 1:
        return grid.expand(-1, -1, bounds[-1], -1, -1).contiguous()
    middles = torch.tensor([(a + b - 1) / 2 for a, b in pairwise(bounds)])
    moments = torch.arange(bounds[-1], dtype=torch.float32)
    right = torch.searchsorted(middles, moments, right=True).clamp(1, len(middles) - 1)
    gap = middles[right] - middles[right - 1]
    weight = ((moments - middles[right - 1]) / gap).clamp(0, 1).to(grid.device)
    weight = weight.view(1, 1, -1, 1, 1)
    right = right.to(grid.device)
    return torch.lerp(grid[:, :, right - 1], grid[:, :, right], weight)
