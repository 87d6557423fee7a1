"""A loss whose gradient is computed once, however many backward passes need it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def with_gradient_once(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the scalar loss(x), and compute its gradient to x at once.

    Backward passes scale this gradient. The graph behind the loss is freed before this returns: a
    network that judges x keeps no activations.

    Args:
        loss: function of x alone. Nothing else that it uses gets a gradient.
        x: tensor with or without a graph.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return loss(x)
    value: Tensor = _WithGradient.apply(x, loss)  # type: ignore[no-untyped-call]
    return value


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = loss(leaf)
            (gradient,) = torch.autograd.grad(value, leaf)
        ctx.save_for_backward(gradient)
        return value.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return outer[0] * gradient, None
