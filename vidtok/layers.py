"""The blocks of a VidTok encoder and decoder: residual blocks, attention, resampling.

Spatial blocks are 2-D: every frame is a picture. Temporal blocks are 1-D over time. Space and time
have separate resamplers; those of time blend a plain path with a learned one (the paper's
AlphaBlender). Parameters have the names of the released checkpoints. The `Stream` knows what lies
before and behind a clip.

Legend: B batch, T time, H W rows and columns, C channels, N = B·T pictures.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok import ops, winograd
from vidtok.derived import Derived
from vidtok.norm import NormAct, add, split_bias
from vidtok.temporal import Rows, Stream, TimeRule


class _Wrapped(nn.Module):
    """Adds the `.conv` that the names of tensors in released causal networks contain."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv


def time_conv(rule: TimeRule, conv: nn.Module) -> nn.Module:
    """Return a convolution over time, wrapped if its released name requires it."""
    return _Wrapped(conv) if rule.causal else conv


class SpatialBlock(nn.Module):
    """Residual block on single frames: two 3×3 convolutions. The width can change."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm1 = NormAct(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = NormAct(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Return the block's output. Without gradients x is overwritten if the width stays."""
        B, T, H, W, C = x_BTHWC.shape
        x = x_BTHWC.view(B * T, H, W, C)
        if torch.is_grad_enabled():
            return add(self._shortcut(x), *self._branch(x)).view(B, T, H, W, -1)
        out = (
            x if self.nin_shortcut is None else x.new_empty((B * T, H, W, self.conv1.out_channels))
        )
        groups = list(ops.frame_groups(x, H * W * max(C, self.conv1.out_channels)))
        convs = [
            winograd.Conv3x3(conv.weight, conv.bias)  # type: ignore[arg-type]
            if winograd.suits(x[None, groups[0]], conv.in_channels, conv.out_channels)
            else None
            for conv in (self.conv1, self.conv2)
        ]
        for some in groups:
            add(self._shortcut(x[some]), *self._branch(x[some], convs), out=out[some])
        return out.view(B, T, H, W, -1)

    def _branch(
        self, x: Tensor, fast: Sequence[winograd.Conv3x3 | None] = (None, None)
    ) -> tuple[Tensor, Tensor | None]:
        """Return the branch's output, and the bias that it lacks."""
        late = None
        pairs = ((self.norm1, self.conv1), (self.norm2, self.conv2))
        for (norm, conv), quick in zip(pairs, fast, strict=True):
            if quick is None:
                x = norm(x, late)
                now, late = split_bias(x, conv.bias)
                x = ops.conv2d(x, conv.weight, now, padding=1)
            else:
                norm.into(x, quick.interior(1, *x.shape[:3])[0])
                x = quick()[0]
        return x, late

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.nin_shortcut is None:
            return x
        return ops.conv2d(x, self.nin_shortcut.weight, self.nin_shortcut.bias)


class TemporalBlock(nn.Module):
    """Residual block over time at each position: two convolutions with kernel 3."""

    def __init__(self, channels: int, rule: TimeRule) -> None:
        super().__init__()
        self.norm1 = NormAct(channels)
        self.conv1 = time_conv(rule, nn.Conv1d(channels, channels, 3))
        self.norm2 = NormAct(channels)
        self.conv2 = time_conv(rule, nn.Conv1d(channels, channels, 3))
        for tensor in ops.weight_and_bias(self.conv2):
            nn.init.zeros_(tensor)

    def forward(self, x_BTHWC: Tensor, stream: Stream) -> Tensor:
        """Return the block's output. Without gradients x is overwritten."""
        height = x_BTHWC.shape[2]
        if torch.is_grad_enabled():
            return add(x_BTHWC, *self._branch(x_BTHWC, stream, Rows(0, height, height)))
        fast = winograd.suits_time(x_BTHWC)
        convs = [
            winograd.TimeConv(*ops.weight_and_bias(conv)) if fast else None
            for conv in (self.conv1, self.conv2)
        ]
        for strip in ops.row_strips(x_BTHWC):
            x = x_BTHWC[:, :, strip]
            rows = Rows(strip.start, strip.stop, height)
            add(x, *self._branch(x, stream, rows, convs), out=x)
        return x_BTHWC

    def _branch(
        self,
        x: Tensor,
        stream: Stream,
        rows: Rows,
        fast: Sequence[winograd.TimeConv | None] = (None, None),
    ) -> tuple[Tensor, Tensor | None]:
        """Return the branch's output, and the bias that it lacks."""
        late = None
        layers = ((self.norm1, self.conv1), (self.norm2, self.conv2))
        for (norm, conv), quick in zip(layers, fast, strict=True):
            x = stream.window(conv, x, norm=norm, bias=late, rows=rows)
            if quick is None:
                weight, bias = ops.weight_and_bias(conv)
                now, late = split_bias(x, bias)
                x = ops.time_conv(x, weight, now)
            else:
                x = quick(x)
        return x, late


class ResBlock3d(nn.Module):
    """Residual block of two 3×3×3 convolutions, in the middle of encoder and decoder."""

    def __init__(self, channels: int, rule: TimeRule) -> None:
        super().__init__()
        self.norm1 = NormAct(channels)
        self.conv1 = time_conv(rule, nn.Conv3d(channels, channels, 3))
        self.norm2 = NormAct(channels)
        self.conv2 = time_conv(rule, nn.Conv3d(channels, channels, 3))

    def forward(self, x_BTHWC: Tensor, stream: Stream) -> Tensor:
        """Return the block's output."""
        h, late = x_BTHWC, None
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            window = stream.window(conv, h, norm=norm, bias=late)
            weight, bias = ops.weight_and_bias(conv)
            now, late = split_bias(window, bias)
            h = ops.conv3d(window, weight, now)
        return add(x_BTHWC, h, late)


class Attention(nn.Module):
    """Attention over the positions of each frame with one head, added to its input."""

    def __init__(self, channels: int, rule: TimeRule) -> None:
        super().__init__()
        self.norm = NormAct(channels)
        self.q = time_conv(rule, nn.Conv3d(channels, channels, 1))
        self.k = time_conv(rule, nn.Conv3d(channels, channels, 1))
        self.v = time_conv(rule, nn.Conv3d(channels, channels, 1))
        self.proj_out = time_conv(rule, nn.Conv3d(channels, channels, 1))

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Return x plus the attention's output."""
        B, T, H, W, C = x_BTHWC.shape
        h = self.norm.norm(x_BTHWC).view(B * T, 1, H * W, C)
        q, k, v = (_pointwise(h, layer) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return x_BTHWC + _pointwise(y, self.proj_out).view(B, T, H, W, C)


def _pointwise(x: Tensor, layer: nn.Module) -> Tensor:
    weight, bias = ops.weight_and_bias(layer)
    return F.linear(x, weight.flatten(1), bias)


class SpatialDownsample(nn.Module):
    """Halve height and width: a row and a column of zeros at the end, then 3×3 with stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Return `[B, T, ⌊H/2⌋, ⌊W/2⌋, C]`."""
        B, T, H, W, C = x_BTHWC.shape
        x = x_BTHWC.view(B * T, H, W, C)
        out = x.new_empty((B * T, H // 2, W // 2, C))
        for some in ops.frame_groups(x, (H + 1) * (W + 1) * C):
            padded = x.new_empty((some.stop - some.start, H + 1, W + 1, C))
            padded[:, H], padded[:, :, W] = 0, 0
            padded[:, :H, :W] = x[some]
            out[some] = ops.conv2d(padded, self.conv.weight, self.conv.bias, stride=2)
        return out.view(B, T, H // 2, W // 2, C)


class SpatialUpsample(nn.Module):
    """Double height and width by nearest neighbour, then convolve 3×3.

    A pixel reaches only 4×4 pixels of the result: together this is a transposed convolution of
    stride 2. It is exact, saves 5/9 of the arithmetic, and writes the result once.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self._derived = Derived()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Return `[B, T, 2H, 2W, C]`."""
        B, T, H, W, C = x_BTHWC.shape
        x, bias = x_BTHWC.view(B * T, H, W, C), self.conv.bias
        weight = self._derived(_transposed, self.conv.weight)
        groups = list(ops.frame_groups(x, 4 * H * W * C))
        if len(groups) == 1:
            return ops.double_and_conv2d(x, weight, bias).view(B, T, 2 * H, 2 * W, C)
        pictures = x.new_empty((B * T, 2 * H, 2 * W, C))
        for some in groups:
            pictures[some] = ops.double_and_conv2d(x[some], weight, bias)
        return pictures.view(B, T, 2 * H, 2 * W, C)


def _transposed(weight: Tensor) -> Tensor:
    """Return the kernel `[C, K, 4, 4]` of a transposed convolution that doubles, then convolves."""
    folded = weight.float()
    for axis in (2, 3):
        first, second, third = folded.unbind(axis)
        folded = torch.stack((third, second + third, first + second, first), axis)
    return ops.channels_last(folded.transpose(0, 1)).to(weight.dtype)


def _fold(weight: Tensor, phase: int) -> Tensor:
    """Fold three taps over doubled frames into two taps over plain ones, for one output phase."""
    first, second, third = weight.unbind(2)
    taps = (first, second + third) if phase == 0 else (first + second, third)
    return torch.stack(taps, 2)


class _Blend(nn.Module):
    """α·plain + (1 − α)·conv with α = sigmoid(mix_factor), folded into one kernel.

    The plain path is linear with fixed taps: an average of three frames, or the frame itself. Its
    taps are added to the centre of the learned kernel: one convolution instead of three passes.
    """

    plain_taps: tuple[float, float, float]

    def __init__(self, channels: int, rule: TimeRule) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.tensor([2.0]))
        self.conv = time_conv(rule, nn.Conv3d(channels, channels, 3))
        self._derived = Derived()

    def blended(self) -> tuple[Tensor, Tensor]:
        """Return the blended weight `[C, C, 3, 3, 3]` and bias `[C]`, float32."""
        weight, bias = ops.weight_and_bias(self.conv)
        alpha = torch.sigmoid(self.mix_factor.float())
        plain = torch.zeros_like(weight, dtype=torch.float32)
        eye = torch.eye(weight.shape[0], device=weight.device)
        for tap, value in enumerate(self.plain_taps):
            plain[:, :, tap, 1, 1] = value * eye
        return alpha * plain + (1 - alpha) * weight.float(), (1 - alpha) * bias.float()

    def kernels(self) -> list[Tensor]:
        """Return what `of_blend` makes of the blended kernel, rounded once to the layer's dtype."""
        parameters = self.mix_factor, *ops.weight_and_bias(self.conv)
        return self._derived(self._kernels, *parameters)

    def _kernels(self, mix_factor: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        *weights, bias = self.of_blend(*self.blended())
        return [*(ops.channels_last(w).to(weight.dtype) for w in weights), bias.to(weight.dtype)]

    def of_blend(self, weight: Tensor, bias: Tensor) -> list[Tensor]:
        """Return the weights and the bias to convolve with, for a blended kernel: itself."""
        return [weight, bias]


class TemporalDownsample(_Blend):
    """Halve time: an average of three frames, blended with a strided convolution."""

    plain_taps = (1 / 3, 1 / 3, 1 / 3)

    def forward(self, x_BTHWC: Tensor, stream: Stream) -> Tensor:
        """Return `[B, ⌊T/2⌋, H, W, C]`."""
        window = stream.window(self.conv, x_BTHWC, stride=2)
        return ops.conv3d(window, *self.kernels(), stride=2)


class TemporalUpsample(_Blend):
    """Double time, then blend the doubled frames with a convolution of them.

    Args:
        latent_frame: number of frames that one latent frame has become at this layer.
    """

    def __init__(self, channels: int, rule: TimeRule, latent_frame: int) -> None:
        super().__init__(channels, rule)
        self.latent_frame = latent_frame
        self.nearest = rule.upsampling == "nearest"
        self.causal = rule.causal
        self.plain_taps = (0.0, 0.0, 1.0) if rule.causal else (0.0, 1.0, 0.0)

    def of_blend(self, weight: Tensor, bias: Tensor) -> list[Tensor]:
        """Fold a kernel of doubled frames: each output phase sees only two distinct frames.

        Both phases of a causal network see their own frame and the one before: they are one kernel.
        """
        if not self.nearest:
            return [weight, bias]
        even, odd = _fold(weight, 1), _fold(weight, 0)
        return [torch.cat([even, odd]), bias.repeat(2)] if self.causal else [even, odd, bias]

    def forward(self, x_BTHWC: Tensor, stream: Stream) -> Tensor:
        """Return `[B, 2T, H, W, C]`; for a chunk, the frames that are complete."""
        kernels = self.kernels()
        if not self.nearest:
            doubled = stream.interpolate(self, x_BTHWC, self.latent_frame)
            return ops.conv3d(stream.window(self.conv, doubled), *kernels)
        B, T, H, W, C = x_BTHWC.shape
        window = stream.window(self.conv, x_BTHWC)
        if self.causal:
            both = ops.conv3d(window[:, 1:], *kernels)
            doubled = both.view(B, T, H, W, 2, C).movedim(4, 2)
            return doubled.contiguous().flatten(1, 2)  # of one frame, flatten alone makes a view
        even, odd, bias = kernels
        phases = [ops.conv3d(window[:, :-1], odd, bias), ops.conv3d(window[:, 1:], even, bias)]
        return torch.stack(phases, 2).flatten(1, 2)
