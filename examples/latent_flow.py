"""A flow-matching transformer over KL latents: `python examples/latent_flow.py out/demo --out …`.

The straight path from a latent x to noise e is (1 - s) x + s e. From a point on it and s, the
network predicts x, and so the velocity e - x, which the loss compares. A sample starts as noise and
follows the velocities. The network predicts x because latents use few directions and noise uses
all. Source: Lipman et al., Flow Matching, arXiv 2210.02747; straight paths as in Liu et al.,
Rectified Flow, arXiv 2209.03003; s is drawn as in Esser et al., arXiv 2403.03206, section 3.1;
prediction of x as in Li and He, Back to Basics: Let Denoising Generative Models Denoise, arXiv
2511.13720.

Each channel of the latents is normalised to mean 0 and deviation 1 over the corpus. Otherwise
channels with large values would dominate the loss, and noise of deviation 1 would not fit the
others.
"""

import sys
from functools import reduce
from operator import add
from pathlib import Path

import torch
from torch import Tensor, nn

# From a checkout that is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.generators.clips import clip_buckets
from examples.generators.command import command
from examples.generators.training import Settings
from examples.generators.transformer import (
    Positions,
    Transformer,
    from_patches,
    patch_grid,
    patch_places,
    to_patches,
    waves,
)
from pipeline.reading import Snapshot, TokenizerColumn

SAMPLING_STEPS = 50
LEAST_TIME = 1 / SAMPLING_STEPS
"""Least time s in the denominator of a velocity; the last step of sampling begins here."""


class LatentFlow(nn.Module):
    """The generator.

    Args:
        mean: mean of each channel over the corpus, [C].
        std: standard deviation of each channel, [C].
        patch: p, cells along the side of a patch.
        width: width of the transformer.
        depth: number of its blocks.
    """

    loss_unit = "squared error of the velocity"
    distance_unit = "standard deviations, RMS"
    bits_per_loss = None

    def __init__(self, mean: Tensor, std: Tensor, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.patch = patch
        self.register_buffer("mean", mean.float().view(-1, 1, 1, 1))
        self.register_buffer("std", std.float().view(-1, 1, 1, 1))
        values = patch * patch * len(mean)
        self.embed = nn.Linear(values, width)
        self.positions = Positions(width)
        self.time = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width))
        self.transformer = Transformer(width, depth)
        self.out = nn.Linear(width, values)
        nn.init.zeros_(self.out.weight)

    def forward(self, latents: Tensor, *condition: Tensor) -> Tensor:
        """Return the mean squared error [B] of velocities on latents [B, C, t, h, w]."""
        x = self.normalized(latents)
        # Mostly from the middle of the path, where the velocity is hardest to predict.
        s = torch.randn(len(x), 1, 1, 1, 1, device=x.device).sigmoid()
        noise = torch.randn_like(x)
        velocity = self.velocity((1 - s) * x + s * noise, s.flatten(), *condition)
        return (velocity - (noise - x)).square().flatten(1).mean(1)

    def velocity(self, x: Tensor, s: Tensor, *condition: Tensor) -> Tensor:
        """Return velocities [B, C, t, h, w] at points x of paths and times s [B] in [0, 1]."""
        grid = patch_grid(tuple(x.shape[2:]), self.patch)
        places = patch_places(grid, x.device)
        time = self.time(waves(1000 * s, 128))[:, None]
        patches = self.embed(to_patches(x, self.patch)) + self.positions(places) + time
        patches = self.conditioned(patches, *condition)
        end = from_patches(self.out(self.transformer(patches, places)), grid, self.patch)
        return (x - end.float()) / s.view(-1, 1, 1, 1, 1).clamp(min=LEAST_TIME)

    def conditioned(self, patches: Tensor, *condition: Tensor) -> Tensor:
        """Return patches [B, N, D] that know of a condition: here there is none."""
        return patches

    @torch.no_grad()
    def sample(self, num: int, shape: tuple[int, ...], *condition: Tensor) -> Tensor:
        """Integrate from noise to latents [num, C, t, h, w], in equal steps (Euler's method)."""
        x = torch.randn(num, *shape, device=self.mean.device)
        for step in range(SAMPLING_STEPS, 0, -1):
            s = torch.full((num,), step / SAMPLING_STEPS, device=x.device)
            x = x - self.velocity(x, s, *condition) / SAMPLING_STEPS
        return x * self.std + self.mean

    def distances(self, latents: Tensor, others: Tensor) -> Tensor:
        """Return the distances of [n, C, t, h, w] from [m, C, t, h, w], as [n, m]."""
        ours, theirs = (self.normalized(each).flatten(1) for each in (latents, others))
        return torch.cdist(ours, theirs) / ours.shape[1] ** 0.5

    def normalized(self, latents: Tensor) -> Tensor:
        """Return latents with mean 0 and deviation 1 in each channel over the corpus."""
        return (latents.float() - self.mean) / self.std


def channel_statistics(corpus: Snapshot, column: TokenizerColumn) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [C] of the latents in all buckets for training."""
    buckets = corpus.statistics().buckets
    latents = reduce(add, (buckets[name].latents[column.name] for name in clip_buckets(corpus)))
    return torch.tensor(latents.mean()), torch.tensor(latents.std())


def build(corpus: Snapshot, column: TokenizerColumn, settings: Settings) -> LatentFlow:
    """Return the generator of a dataset's KL latents."""
    mean, std = channel_statistics(corpus, column)
    return LatentFlow(mean, std, settings.patch, settings.width, settings.depth)


if __name__ == "__main__":
    command(__doc__.splitlines()[0], "latents", build)
