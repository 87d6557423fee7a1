"""Convolutions and norms on channels-last activations, chosen for speed per device.

Everything between the first and the last layer is `[B, T, H, W, C]` in memory: normalisation works
on the last axis without permuting, and a 2-D or 3-D convolution sees its channels-last view. On a
CPU, large activations are worked through in pieces that stay in the cache and below the size from
which the allocator asks the kernel for fresh pages each time (a page fault costs as much as the
arithmetic of a pointwise pass). With gradients on, everything is done in one piece, out of place.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok import winograd

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
    x_BTHWC: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 1
) -> Tensor:
    """3-D convolution of channels-last clips; `padding` is spatial, `stride` temporal."""
    if x_BTHWC.shape[-1] <= _FEW_CHANNELS and stride == 1:
        return _conv3d_as_2d(x_BTHWC, weight, bias, padding)
    if padding == 1 and winograd.suits(x_BTHWC, weight.shape[1], weight.shape[0]):
        return _conv3d_winograd(x_BTHWC, weight, bias, stride)
    y = F.conv3d(
        x_BTHWC.permute(0, 4, 1, 2, 3), weight, bias, (stride, 1, 1), (0, padding, padding)
    )
    return y.permute(0, 2, 3, 4, 1).contiguous()


_FEW_CHANNELS = 16
"""Below this the 3-D kernels of the libraries leave most of a vector empty."""


def _conv3d_as_2d(x_BTHWC: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """The same convolution with the frames that a kernel sees side by side as channels."""
    B, T = x_BTHWC.shape[:2]
    taps = weight.shape[2]
    frames = torch.cat([x_BTHWC[:, i : T - taps + 1 + i] for i in range(taps)], -1)
    flat = weight.transpose(1, 2).flatten(1, 2)
    y = conv2d(frames.flatten(0, 1), flat, bias, padding=padding)
    return y.view(B, -1, *y.shape[1:])


def _conv3d_winograd(x_BTHWC: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    B, T, H, W, C = x_BTHWC.shape
    taps = weight.shape[2]
    conv = winograd.Conv3x3(weight, bias, stride)
    out = x_BTHWC.new_empty((B, (T - taps) // stride + 1, H, W, weight.shape[0]))
    for some in strips(out.shape[1], B * H * W * C * x_BTHWC.element_size() // _FRAMES_AT_ONCE):
        frames = x_BTHWC[:, some.start * stride : (some.stop - 1) * stride + taps]
        conv.interior(*frames.shape[:4]).copy_(frames)
        out[:, some] = conv()
    return out


_FRAMES_AT_ONCE = 16
"""Pieces' worth of frames that are transformed together: neighbours share their overlap in time."""


class TimeConv:
    """Convolution over time alone, weight `[K, C, 3]`, no padding: T + 2 frames become T.

    Done as a 2-D convolution over (T, H·W): several times faster than a 1-D convolution of the
    same numbers, since the channels stay in place.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight = weight.unsqueeze(-1).contiguous(memory_format=torch.channels_last)
        self._bias = bias

    def __call__(self, x_BTHWC: Tensor) -> Tensor:
        """Return `[B, T, H, W, K]` of x `[B, T + 2, H, W, C]`."""
        B, T, H, W, C = x_BTHWC.shape
        y = conv2d(x_BTHWC.reshape(B, T, H * W, C), self._weight, self._bias)
        return y.view(B, T - 2, H, W, -1)


def autocast(
    device: torch.device, dtype: torch.dtype | None = None
) -> AbstractContextManager[object]:
    """Return a context in which convolutions and matrix products compute in `dtype`.

    With None they compute in the type of their inputs, even inside another such context.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def on_cpu_without_grad(x: Tensor) -> bool:
    """Whether x may be worked through in pieces that are sized for a CPU's cache."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def strips(length: int, bytes_each: int) -> Iterator[slice]:
    """Yield slices of `range(length)` of at most `PIECE_BYTES` each, one element at least."""
    step = max(1, PIECE_BYTES // bytes_each)
    for start in range(0, length, step):
        yield slice(start, min(length, start + step))


def frame_groups(x_NHWC: Tensor, channels: int) -> Iterator[slice]:
    """Yield runs of pictures that are worked on together, `channels` being the widest layer."""
    n, H, W, _ = x_NHWC.shape
    if not on_cpu_without_grad(x_NHWC):
        return iter([slice(0, n)])
    return strips(n, H * W * channels * x_NHWC.element_size())


def row_strips(x_BTHWC: Tensor) -> Iterator[slice]:
    """Yield strips of rows whose whole time lines are worked on together."""
    B, T, H, W, C = x_BTHWC.shape
    if not on_cpu_without_grad(x_BTHWC):
        return iter([slice(0, H)])
    return strips(H, B * (T + 2) * W * C * x_BTHWC.element_size())
