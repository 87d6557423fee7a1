"""Norm and activation of every block, and how each device computes them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok import ops


class NormAct(nn.Module):
    """LayerNorm over the channels of each position (eps 1e-6), then SiLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return x normalised over its last axis and activated, of the same dtype."""
        if not ops.is_cpu(x.device) and x.numel() > ops.max_elements(x):
            out = torch.empty_like(x)
            self.into(x, out)
            return out
        if x.dtype == torch.float32 or not ops.on_cpu_without_grad(x):
            return F.silu(self.norm(x), inplace=not torch.is_grad_enabled())
        return self._in_float32(x).to(x.dtype)

    def into(self, x: Tensor, out: Tensor) -> None:
        """Write the result for x into `out`. On a CPU no intermediate tensor has the size of x."""
        limit = ops.max_elements(x)
        if x.numel() > limit and x.shape[0] == 1:
            self.into(x[0], out[0])
        elif x.numel() > limit:
            for strip in ops.strips(x.shape[0], x[0].numel(), limit):
                self.into(x[strip], out[strip])
        elif not ops.on_cpu_without_grad(x):
            out.copy_(self(x))
        elif x.dtype == torch.float32:
            torch.ops.aten.silu.out(self.norm(x), out=out)
        else:
            out.copy_(self._in_float32(x))

    def _in_float32(self, x: Tensor) -> Tensor:
        """A CPU emulates half precision: computing in float32 is faster and rounds only once."""
        weight, bias = self.norm.weight.float(), self.norm.bias.float()
        y = F.layer_norm(x.float(), self.norm.normalized_shape, weight, bias, self.norm.eps)
        return F.silu(y, inplace=True)
