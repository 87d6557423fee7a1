"""Convolutions and norms on channels-last activations, chosen for speed per device.

Everything between the first and the last layer is `[B, T, H, W, C]` in memory: a norm works on the
last axis without a permutation, and a 2-D or 3-D convolution sees its channels-last view.

On a CPU, large activations are processed in pieces that fit into the cache. The pieces also stay
below the size from which the allocator requests fresh pages each time: a page fault costs as much
as the arithmetic of a pointwise pass. On an accelerator, a piece is as large as its kernels count
without an error. With gradients, there is one piece, and nothing is in place.
"""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok import half, winograd

PIECE_BYTES = 8 << 20
"""Maximum size of one piece of an activation on a CPU."""

MAX_ELEMENTS = 1 << 30
"""Maximum number of elements of a tensor in one call on an accelerator. Kernels of torch that count
in 32 bits give wrong values without an error above 2^31 or 2^32 elements, such as `layer_norm`
before the fix of pytorch 181555."""


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight and bias of a convolution, wrapped (released causal networks) or not."""
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
    """3-D convolution of channels-last clips; `padding` applies to space, `stride` to time."""
    if padding == 1 and winograd.suits(x_BTHWC, weight.shape[1], weight.shape[0]):
        return _conv3d_winograd(x_BTHWC, weight, bias, stride)
    B, T, H, W, C = x_BTHWC.shape
    taps, limit = weight.shape[2], max_elements(x_BTHWC)
    each = B * H * W * max(C, weight.shape[0])
    if is_cpu(x_BTHWC.device) or (T + taps) * each <= limit:
        return _conv3d(x_BTHWC, weight, bias, stride, padding)
    frames = strips((T - taps) // stride + 1, stride * each, limit - taps * each)
    pieces = [x_BTHWC[:, n.start * stride : (n.stop - 1) * stride + taps] for n in frames]
    return torch.cat([_conv3d(x, weight, bias, stride, padding) for x in pieces], 1)


def _conv3d(
    x_BTHWC: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
) -> Tensor:
    if x_BTHWC.shape[-1] <= _FEW_CHANNELS and stride == 1:
        return _conv3d_as_2d(x_BTHWC, weight, bias, padding)
    y = F.conv3d(
        x_BTHWC.permute(0, 4, 1, 2, 3), weight, bias, (stride, 1, 1), (0, padding, padding)
    )
    return y.permute(0, 2, 3, 4, 1).contiguous()


_FEW_CHANNELS = 16
"""Number of channels up to which the libraries' 3-D kernels leave most of a vector empty."""


def _conv3d_as_2d(x_BTHWC: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """Convolve in 2-D, with the frames that a kernel sees concatenated along the channels."""
    B, T = x_BTHWC.shape[:2]
    taps = weight.shape[2]
    frames = torch.cat([x_BTHWC[:, i : T - taps + 1 + i] for i in range(taps)], -1)
    flat = weight.transpose(1, 2).flatten(1, 2)
    y = conv2d(frames.flatten(0, 1), flat, bias, padding=padding)
    return y.view(B, -1, *y.shape[1:])


def _conv3d_winograd(x_BTHWC: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    assert bias is not None  # a CPU leaves no bias to the next layer
    B, T, H, W, C = x_BTHWC.shape
    taps = weight.shape[2]
    conv = winograd.Conv3x3(weight, bias, stride)
    out = x_BTHWC.new_empty((B, (T - taps) // stride + 1, H, W, weight.shape[0]))
    for some in strips(out.shape[1], B * H * W * C // _FRAMES_AT_ONCE, max_elements(x_BTHWC)):
        frames = x_BTHWC[:, some.start * stride : (some.stop - 1) * stride + taps]
        conv.interior(*frames.shape[:4]).copy_(frames)
        out[:, some] = conv()
    return out


_FRAMES_AT_ONCE = 16
"""Number of pieces to transform together, so that frames in their overlap are done once."""


def time_conv(x_BTHWC: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution over time alone, weight `[K, C, 3]`, no padding: T + 2 frames become T.

    It is a 2-D convolution over (T, H·W), where the channels stay in place: several times faster
    than a 1-D convolution.
    """
    B, T, H, W, C = x_BTHWC.shape
    tall = weight.movedim(1, -1).unsqueeze(2).movedim(-1, 1)  # [K, C, 3, 1], channels last
    y = conv2d(x_BTHWC.reshape(B, T, H * W, C), tall, bias)
    return y.view(B, T - 2, H, W, -1)


def double_and_conv2d(x_NHWC: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Transposed convolution of channels-last pictures, weight `[C, K, 4, 4]`: H·W become 2H·2W."""
    y = F.conv_transpose2d(x_NHWC.permute(0, 3, 1, 2), weight, bias, stride=2, padding=1)
    return y.permute(0, 2, 3, 1).contiguous()


def channels_last(weight: Tensor) -> Tensor:
    """Return a convolution's weight with the channels of axis 1 last in memory."""
    return weight.movedim(1, -1).contiguous().movedim(-1, 1)


def autocast(
    device: torch.device, dtype: torch.dtype | None = None
) -> AbstractContextManager[object]:
    """Return a context in which convolutions and matrix products compute in `dtype`.

    With None, or on a CPU that is slower in `dtype`, they compute in the type of their inputs, even
    inside another such context.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    if dtype is not None and half.arithmetic(device, dtype) != dtype:
        dtype = None
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def is_cpu(device: torch.device) -> bool:
    """Return whether activations on a device are processed as a CPU needs it."""
    return device.type == "cpu"


def on_cpu_without_grad(x: Tensor) -> bool:
    """Return whether x is processed in pieces that fit into a CPU's cache."""
    return is_cpu(x.device) and not torch.is_grad_enabled()


def max_elements(x: Tensor) -> int:
    """Return the maximum number of elements of a piece of x."""
    if torch.is_grad_enabled():
        return sys.maxsize
    return PIECE_BYTES // x.element_size() if is_cpu(x.device) else MAX_ELEMENTS


def strips(length: int, elements_each: int, limit: int) -> Iterator[slice]:
    """Yield slices of `range(length)`, each of at most `limit` elements or of one item."""
    step = max(1, limit // max(1, elements_each))
    for start in range(0, length, step):
        yield slice(start, min(length, start + step))


def frame_groups(x_NHWC: Tensor, elements_each: int) -> Iterator[slice]:
    """Yield groups of pictures to process together.

    Args:
        x_NHWC: the pictures.
        elements_each: number of elements of the largest activation of a picture.
    """
    return strips(x_NHWC.shape[0], elements_each, max_elements(x_NHWC))


def row_strips(x_BTHWC: Tensor) -> Iterator[slice]:
    """Yield strips of rows to process together, over all frames."""
    B, T, H, W, C = x_BTHWC.shape
    return strips(H, B * (T + 2) * W * C, max_elements(x_BTHWC))
