"""A convolution as a linear regression: the inputs of its kernel, and the best weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Taps:
    """Extent of a kernel in time and in space, and its strides."""

    time: int
    space: int
    time_stride: int = 1
    space_stride: int = 1


def all_cells(size: Sequence[int]) -> tuple[Tensor, ...]:
    """Return indices (b, t, y, x) of all cells of `[B, T, H, W]`."""
    return torch.unravel_index(torch.arange(torch.Size(size).numel()), tuple(size))


def windows(x_BTHWC: Tensor, taps: Taps, cells: tuple[Tensor, ...]) -> Tensor:
    """Return the kernel's inputs at each cell, `[N, C·taps]`, in the order of a weight."""
    b, t, y, x = cells
    inputs = [
        x_BTHWC[b, t * taps.time_stride + i, y * taps.space_stride + j, x * taps.space_stride + k]
        for i in range(taps.time)
        for j in range(taps.space)
        for k in range(taps.space)
    ]
    return torch.stack(inputs, -1).flatten(1)


def ridge(inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Return weight `[K, P]` and bias `[K]` of the ridge regression of targets on inputs."""
    mean, aim = inputs.mean(0), targets.mean(0)
    x, y = (inputs - mean).double(), (targets - aim).double()
    covariance = x.T @ x / len(x)
    covariance.diagonal().add_(strength * covariance.diagonal().mean() + 1e-9)
    weight = torch.linalg.solve(covariance, x.T @ y / len(x)).T.float()
    return weight, aim - weight @ mean
