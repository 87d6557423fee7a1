"""Norm, activation and the frames around a clip in one pass of Triton, forward and backward.

Plain torch takes four passes over memory from one convolution to the next: the first one's bias
(cuDNN adds none), LayerNorm, SiLU, and a copy into the window of the next convolution. Here it is
one pass, and a residual sum with a bias is another one. Statistics and sums are float32.

The backward pass keeps the input and two float32 numbers per position, and computes the rest again.
`vidtok.norm` decides where these kernels are used. They were run in Triton's interpreter and
compiled for NVIDIA GPUs, but never run on one.

Triton starts a kernel on the current device, so the device of the input becomes the current one.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from vidtok.norm_kernels import add_forward, norm_backward, norm_forward

Fill = Literal["nothing", "zeros", "first"]
"""Content of the frames in front: not written, zeros, or copies of the result for frame 0."""

FORWARD_ELEMENTS, BACKWARD_ELEMENTS = 4096, 2048
"""Number of elements of a block: the backward pass keeps three times as many values of each."""

PROGRAMS = 1024
"""Maximum number of programs of a backward pass; each has a row of partial sums. A constant, so
that the order of the sums does not depend on the device."""


class _Shape(NamedTuple):
    """How the kernels see an activation: clips of frames of positions."""

    clips: int
    frames: int
    positions: int
    channels: int

    @classmethod
    def of(cls, x: Tensor) -> "_Shape":
        if x.dim() != 5:
            return cls(1, 1, x.shape[:-1].numel(), x.shape[-1])
        return cls(x.shape[0], x.shape[1], x.shape[2] * x.shape[3], x.shape[4])

    def strides(self, x: Tensor) -> tuple[int, int]:
        """Return the elements from clip to clip and from frame to frame of x."""
        return (x.stride(0), x.stride(1)) if x.dim() == 5 else (0, 0)

    def blocks(self, elements: int) -> tuple[int, int, dict[str, int]]:
        """Return the number of blocks of at most `elements`, in all and of a frame, and the sizes.

        The sizes of a block are constants of a kernel.
        """
        columns = triton.next_power_of_2(self.channels)
        rows = max(1, min(elements // columns, triton.next_power_of_2(self.positions)))
        constants = {"C": self.channels, "COLUMNS": columns, "ROWS": rows}
        each = triton.cdiv(self.positions, rows)
        return self.clips * self.frames * each, each, constants


def _frames_whole(x: Tensor) -> Tensor:
    """Return x, copied unless each frame is contiguous."""
    if x.dim() == 5 and x[0, 0].is_contiguous():
        return x
    return x.contiguous()


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *more: Any) -> Tensor:
        shift, weight, bias, _, front, _, fill = more
        out, mean, rstd = _norm(x, *more, keep=True)
        ctx.save_for_backward(x, shift, weight, bias, mean, rstd)
        ctx.front, ctx.fill = front, fill
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, shift, weight, bias, mean, rstd = ctx.saved_tensors
        shape, grad = _Shape.of(x), grad.contiguous()
        all_blocks, blocks, constants = shape.blocks(BACKWARD_ELEMENTS)
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        programs = min(all_blocks, PROGRAMS)
        sums = torch.empty((programs, 3, shape.channels), dtype=torch.float32, device=x.device)
        frame = shape.positions * shape.channels
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
            norm_backward[(programs,)](
                x,
                x if shift is None else shift,
                weight,
                bias,
                mean,
                rstd,
                grad,
                dx,
                sums,
                all_blocks,
                blocks,
                shape.frames,
                shape.positions,
                *shape.strides(x),
                grad.numel() // shape.clips,
                frame,
                **constants,
                SHIFTED=shift is not None,
                FRONT=ctx.front,
                FILL=ctx.fill,
            )
        of_weight, of_bias, of_shift = sums.sum(0)
        of_shift = None if shift is None else of_shift.to(shift.dtype)
        none = (None,) * 4
        return dx, of_shift, of_weight.to(weight.dtype), of_bias.to(bias.dtype), *none


def _norm(
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    front: int,
    behind: int,
    fill: Fill,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = _Shape.of(x)
    all_blocks, blocks, constants = shape.blocks(FORWARD_ELEMENTS)
    longer = x.shape if x.dim() != 5 else (x.shape[0], front + x.shape[1] + behind, *x.shape[2:])
    out = torch.empty(longer, dtype=x.dtype, device=x.device)
    kept = shape.clips * shape.frames * shape.positions if keep else 0
    mean, rstd = torch.empty((2, kept), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        norm_forward[(all_blocks,)](
            x,
            x if shift is None else shift,
            weight,
            bias,
            out,
            mean,
            rstd,
            blocks,
            shape.frames,
            shape.positions,
            *shape.strides(x),
            out.numel() // shape.clips,
            shape.positions * shape.channels,
            eps,
            **constants,
            SHIFTED=shift is not None,
            KEEP=keep,
            FRONT=front,
            BEHIND=behind,
            FILL=fill,
        )
    return out, mean, rstd


def norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    shift: Tensor | None = None,
    front: int = 0,
    behind: int = 0,
    fill: Fill = "nothing",
) -> Tensor:
    """Return SiLU(LayerNorm(x + shift)) over the last axis, of x's dtype, and frames around it.

    Args:
        x: `[B, T, H, W, C]`, or of any shape `[..., C]` if no frames are added; not empty.
        weight: gain of the norm, `[C]`.
        bias: offset of the norm, `[C]`.
        eps: what the norm adds to the variance.
        shift: bias `[C]` of the convolution that gave x, if x lacks it.
        front: number of frames to add in front.
        behind: number of frames of zeros to add behind.
        fill: content of the frames in front.
    """
    x = _frames_whole(x)
    arguments = (x, shift, weight, bias, eps, front, behind, fill)
    if torch.is_grad_enabled() and _any_grad(arguments[:4]):
        return _NormSilu.apply(*arguments)  # type: ignore[no-any-return, no-untyped-call]
    return _norm(*arguments, keep=False)[0]


def _any_grad(tensors: Sequence[Tensor | None]) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


class _Add(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, branch: Tensor, bias: Tensor) -> Tensor:
        ctx.dtypes = x.dtype, branch.dtype, bias.dtype  # type: ignore[attr-defined]
        return _add(x, branch, bias, torch.empty(x.shape, dtype=x.dtype, device=x.device))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        of_bias = grad.sum(tuple(range(grad.dim() - 1)), dtype=torch.float32)
        grads = (grad, grad, of_bias)
        return tuple(g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True))


def _add(x: Tensor, branch: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    shape = _Shape.of(x)
    all_blocks, blocks, constants = shape.blocks(FORWARD_ELEMENTS)
    strides = [stride for tensor in (x, branch, out) for stride in shape.strides(tensor)]
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        add_forward[(all_blocks,)](
            x, branch, bias, out, blocks, shape.frames, shape.positions, *strides, **constants
        )
    return out


def add(x: Tensor, branch: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """Return x + branch + bias, for activations of one shape `[..., C]` and a bias `[C]`.

    Args:
        x: the residual stream.
        branch: what a convolution without its bias gave.
        bias: that bias.
        out: where to write the sum without gradients; can be x.
    """
    x, branch = _frames_whole(x), _frames_whole(branch)
    if torch.is_grad_enabled() and _any_grad((x, branch, bias)):
        return _Add.apply(x, branch, bias)  # type: ignore[no-any-return, no-untyped-call]
    assert out is None or _frames_whole(out) is out
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return _add(x, branch, bias, out)
