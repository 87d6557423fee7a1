"""Convolutions and norms on channels-last activations, chosen for speed per device.

Everything between the first and the last layer is `[B, T, H, W, C]` in memory: normalisation works
on the last axis without permuting, and a 2-D or 3-D convolution sees its channels-last view. On a
CPU, large activations are worked through in pieces that stay in the cache and below the size from
which the allocator asks the kernel for fresh pages each time (a page fault costs as much as the
arithmetic of a pointwise pass). With gradients on, everything is done in one piece, out of place.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PIECE_BYTES = 8 << 20
"""What one piece of an activation may weigh on a CPU."""


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the tensors of a convolution, wrapped (released causal networks) or bare."""
    conv = layer.conv if hasattr(layer, "conv") else layer
    return conv.weight, conv.bias  # type: ignore[union-attr, return-value]


def conv2d(
    x_NHWC: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0
) -> Tensor:
    """2-D convolution of channels-last pictures."""
    y = F.conv2d(x_NHWC.permute(0, 3, 1, 2), weight, bias, stride, padding)
    return y.permute(0, 2, 3, 1).contiguous()


def conv3d(
    x_BTHWC: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 1
) -> Tensor:
    """3-D convolution of channels-last clips; `padding` is spatial, `stride` temporal."""
    y = F.conv3d(
        x_BTHWC.permute(0, 4, 1, 2, 3), weight, bias, (stride, 1, 1), (0, padding, padding)
    )
    return y.permute(0, 2, 3, 4, 1).contiguous()


def conv_time(x_BTHWC: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolution over time alone, weight `[out, in, 3]`, no padding: T becomes T - 2.

    Done as a 2-D convolution over (T, H·W): several times faster than a 1-D convolution of the
    same numbers, since the channels stay in place.
    """
    B, T, H, W, C = x_BTHWC.shape
    y = conv2d(x_BTHWC.reshape(B, T, H * W, C), weight.unsqueeze(-1), bias)
    return y.view(B, T - 2, H, W, -1)


def in_place(x: Tensor) -> bool:
    """Whether activations may be overwritten: nobody will ask for their gradient."""
    return not (torch.is_grad_enabled() and x.requires_grad)


def frame_groups(x_NHWC: Tensor, channels: int) -> Iterator[slice]:
    """Yield runs of pictures that are worked on together, `channels` being the widest layer."""
    n, H, W, _ = x_NHWC.shape
    step = n
    if x_NHWC.device.type == "cpu" and in_place(x_NHWC):
        step = max(1, PIECE_BYTES // (H * W * channels * x_NHWC.element_size()))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def row_strips(x_BTHWC: Tensor) -> Iterator[slice]:
    """Yield strips of rows whose whole time lines are worked on together."""
    B, T, H, W, C = x_BTHWC.shape
    step = H
    if x_BTHWC.device.type == "cpu" and in_place(x_BTHWC):
        step = max(1, PIECE_BYTES // (B * (T + 2) * W * C * x_BTHWC.element_size()))
    for start in range(0, H, step):
        yield slice(start, min(H, start + step))
