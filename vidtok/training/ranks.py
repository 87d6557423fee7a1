"""What the ranks of a distributed run share: weights, gradients, and means with a gradient."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


def in_group() -> bool:
    """Return whether this process is a rank of a process group."""
    return distributed.is_available() and distributed.is_initialized()


class _Pass(nn.Module):
    """A loss, and the weights that it depends on."""

    def __init__(self, weights: Iterable[nn.Parameter], loss: Callable[..., Any]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)
        self._loss = loss

    def forward(self, *args: Any) -> Any:
        return self._loss(*args)


def data_parallel(weights: Iterable[nn.Parameter], loss: Callable[..., Any]) -> nn.Module:
    """Return a module that calls `loss`, for ranks that each have clips of their own.

    With a process group, all ranks get the first rank's weights, and each backward pass averages
    gradients over ranks. Messages overlap with the rest of the backward pass.

    Args:
        weights: all that the loss depends on. Each that requires a gradient must get one in every
            pass.
        loss: function that computes a loss. It can call `torch.autograd.grad` itself.
    """
    module = _Pass(weights, loss)
    if not in_group():
        return module
    # `find_unused_parameters` keeps the order of gradients in the messages. Otherwise it changes
    # after the first pass, and with it the rounding of sums over three ranks or more: a resumed
    # run would have other losses. torch warns once in each rank that no weight is unused.
    return DistributedDataParallel(
        module, gradient_as_bucket_view=True, find_unused_parameters=True
    )


def averaging(module: nn.Module, *, when: bool) -> AbstractContextManager[object]:
    """Return a context in which the module's passes average gradients over ranks, or only add them.

    The last of several passes must average: it averages the sums.
    """
    if when or not isinstance(module, DistributedDataParallel):
        return nullcontext()
    return module.no_sync()


def trained_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return the weights of a module that require a gradient."""
    return [p for p in module.parameters() if p.requires_grad]


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
