"""Means over the ranks of a distributed run, with their gradient."""

from typing import Any

import torch
from torch import Tensor, distributed


def mean_over_ranks(x: Tensor) -> Tensor:
    """Return the mean of x over all ranks; without a process group, x itself.

    The gradient that reaches x is the mean over ranks of the gradients of the result. So a loss
    that every rank computes from the mean, followed by DistributedDataParallel's mean over ranks
    of the parameters' gradients, has the gradient that one process with all the data would have.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return x
    mean: Tensor = _MeanOverRanks.apply(x)  # type: ignore[no-untyped-call]
    return mean


class _MeanOverRanks(torch.autograd.Function):
    """A mean over ranks, whose derivative is a mean over ranks.

    `torch.distributed.nn` has a sum with a gradient, but deprecated, and its successor is private.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(x)
        return x / distributed.get_world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return mean_over_ranks(gradients[0])
