"""Means over the ranks of a distributed run, with their gradient."""

from typing import Any

import torch
from torch import Tensor, distributed


def in_group() -> bool:
    """Return whether this process is a rank of a process group."""
    return distributed.is_available() and distributed.is_initialized()


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of x over all ranks; without a process group, x itself.

    The gradient of x is the mean over ranks of the gradients of the result. If every rank computes
    a loss from the mean, and parameter gradients are then averaged over ranks, they equal the
    gradients of one process with all the data.
    """
    if not in_group():
        return x
    mean: Tensor = _MeanOverRanks.apply(x)  # type: ignore[no-untyped-call]
    return mean


class _MeanOverRanks(torch.autograd.Function):
    """A mean over ranks whose gradient is a mean over ranks.

    The sum with a gradient in `torch.distributed.nn` is deprecated, and its successor is private.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(x)
        return x / distributed.get_world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return mean_over_ranks(gradients[0])
