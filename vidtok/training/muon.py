"""Muon for the kernels of convolutions and Adam for all other weights, as one optimizer.

The inputs of a layer have a common direction, their mean, and most of a gradient lies along it. A
step of Adam then hardly turns the kernel towards anything else. Muon makes all singular values of
a step equal, so that every direction of a kernel learns. torch has it for matrices: a kernel is the
matrix of its output channels by all the values that they see.
Source: Jordan et al., https://kellerjordan.github.io/posts/muon; the length of a step is that of
Liu et al., arXiv 2502.16982, with which both optimizers take one learning rate.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Optimizer of a network's weights, in one group with `lr` of both and `betas` of Adam.

    Args:
        weights: parameters. Kernels are those of three to five dimensions, with the input channels
            last in memory.
        lr: learning rate.
        betas: decay rates of Adam's moments.
        fused: whether Adam is one pass over all weights.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        *,
        fused: bool,
    ) -> None:
        weights = list(weights)
        super().__init__(weights, {"lr": lr, "betas": betas})
        # The maps of prefixes have six dimensions. They are mostly zeros that have to stay.
        self._kernels = [p for p in weights if p.dim() in (3, 4, 5)]
        self._matrices = [nn.Parameter(_as_matrix(p.detach())) for p in self._kernels]
        self._muon = torch.optim.Muon(
            self._matrices, lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
        others = [p for p in weights if p.dim() not in (3, 4, 5)]
        self._adam = torch.optim.Adam(others, lr, betas, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the weights against their gradients. There is no closure."""
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            assert kernel.grad is not None
            matrix.grad = kernel.grad.movedim(1, -1).flatten(1)
        for optimizer in (self._muon, self._adam):
            optimizer.param_groups[0]["lr"] = self.param_groups[0]["lr"]
        self._adam.param_groups[0]["betas"] = self.param_groups[0]["betas"]
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adam.step()
        for matrix in self._matrices:
            matrix.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both optimizers."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`."""
        self._muon.load_state_dict(state_dict["muon"])
        self._adam.load_state_dict(state_dict["adam"])


def require_muon() -> None:
    """Check that this torch has Muon.

    Raises:
        ValueError: it has not.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ValueError(f"needs torch 2.10 or newer, and this is {torch.__version__}; or use adam")


def _as_matrix(kernel: Tensor) -> Tensor:
    """Return a kernel `[K, C, …]` as a view `[K, …·C]` of the same memory."""
    return kernel.movedim(1, -1).view(len(kernel), -1)
