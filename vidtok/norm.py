"""Norm and activation of every block, and how each device computes them."""

import logging
import os
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok import ops

_log = logging.getLogger(__name__)


def kernels(x: Tensor) -> ModuleType | None:
    """Return `vidtok.norm_triton` if its kernels take x, else None: torch then computes the norm.

    They take float32, float16 and bfloat16 on CUDA, where Triton can build them, and on a CPU in
    Triton's interpreter (`TRITON_INTERPRET=1`). A compiler that captures the network builds kernels
    of its own from torch's operations.
    """
    if torch.compiler.is_compiling() or x.dtype not in _TAKEN or x.numel() == 0:
        return None
    return _kernels_of(x.device)


_TAKEN = (torch.float32, torch.float16, torch.bfloat16)


@cache
def _kernels_of(device: torch.device) -> ModuleType | None:
    if device.type != "cuda" and (device.type, os.environ.get("TRITON_INTERPRET")) != ("cpu", "1"):
        return None
    try:
        from vidtok import norm_triton

        x = torch.linspace(-3, 3, 512, device=device).view(4, 128)
        one, zero = torch.ones_like(x[0]), torch.zeros_like(x[0])
        found = norm_triton.norm_silu(x, one, zero, 1e-6)
        wanted = F.silu(F.layer_norm(x, (128,), one, zero, 1e-6))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    except Exception as error:  # no Triton, no C compiler, a device that it does not know
        _log.warning(
            "no fused norms on %s, which takes more memory bandwidth: %s: %s",
            device,
            type(error).__name__,
            error,
        )
        return None
    return norm_triton


def split_bias(x: Tensor, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Return the bias that a convolution of x adds, and the bias that is left to its successor.

    cuDNN adds no bias: on CUDA torch takes a pass of its own for it. A fused kernel that reads the
    activation anyway adds it in passing.
    """
    if ops.is_cpu(x.device) or kernels(x) is None:
        return bias, None
    return None, bias


def add(x: Tensor, branch: Tensor, bias: Tensor | None, out: Tensor | None = None) -> Tensor:
    """Return x + branch + the bias that `split_bias` left. Without gradients it goes into `out`."""
    fused = None if bias is None else kernels(x)
    if fused is not None:
        return fused.add(x, branch, bias, out)  # type: ignore[no-any-return]
    return torch.add(x, branch if bias is None else branch + bias, out=out)


def in_float32(x: Tensor) -> bool:
    """Return whether a CPU computes the norm of x in float32, which rounds only once."""
    return x.dtype in (torch.bfloat16, torch.float16) and ops.on_cpu_without_grad(x)


_FLOATS_AT_ONCE = 1 << 18
"""Number of float32 values between x and the result in half precision: they stay in a core's cache,
where converting them costs a fifth of torch's norm in half precision."""


class NormAct(nn.Module):
    """LayerNorm over the channels of each position (eps 1e-6), then SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x normalised over its last axis and activated, of the same dtype.

        `bias` is added to x first: it is what `split_bias` left of the layer before.
        """
        if (fused := kernels(x)) is not None:
            return fused.norm_silu(  # type: ignore[no-any-return]
                x, self.norm.weight, self.norm.bias, self.norm.eps, shift=bias
            )
        if bias is not None:
            x = x + bias
        if in_float32(x) or (not ops.is_cpu(x.device) and x.numel() > ops.max_elements(x)):
            out = torch.empty_like(x)
            self.into(x, out)
            return out
        return F.silu(self.norm(x), inplace=not torch.is_grad_enabled())

    def window(
        self, x: Tensor, bias: Tensor | None, *, front: int, behind: int, fill: str
    ) -> Tensor:
        """Return `forward` of clips `[B, T, H, W, C]` and frames around it, by `kernels(x)` alone.

        `fill` is the content of the frames in front: "zeros", "first" for copies of the result for
        the first frame, "nothing" for frames that the caller writes. Those behind are zeros.
        """
        fused = kernels(x)
        assert fused is not None
        norm, frames = self.norm, {"front": front, "behind": behind, "fill": fill}
        return fused.norm_silu(  # type: ignore[no-any-return]
            x, norm.weight, norm.bias, norm.eps, shift=bias, **frames
        )

    def into(self, x: Tensor, out: Tensor) -> None:
        """Write the result for x into `out`. On a CPU no intermediate tensor has the size of x."""
        limit = _FLOATS_AT_ONCE if in_float32(x) else ops.max_elements(x)
        if x.numel() > limit and x.shape[0] == 1:
            self.into(x[0], out[0])
        elif x.numel() > limit:
            for strip in ops.strips(x.shape[0], x[0].numel(), limit):
                self.into(x[strip], out[strip])
        elif not ops.on_cpu_without_grad(x):
            out.copy_(self(x))
        elif not in_float32(x):
            torch.ops.aten.silu.out(self.norm(x), out=out)
        else:
            weight, bias = self.norm.weight.float(), self.norm.bias.float()
            y = F.layer_norm(x.float(), self.norm.normalized_shape, weight, bias, self.norm.eps)
            out.copy_(F.silu(y, inplace=True))
