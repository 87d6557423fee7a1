"""Weights that already show a picture before training: a linear path fitted by least squares.

With their last convolutions at zero, all residual blocks and the attention pass their input on.
What remains of a VidTok network is a chain of resampling convolutions. This module fits each of
them by ridge regression, in the order in which data flows. A layer's input in a batch of clips is
regressed on the principal components of the pixels that one of its output cells covers. The network
then starts as a pyramid of principal components, and the residual blocks start with useful
gradients.

Measured with the package's narrow KL network on held-out clips: 18.8 dB at the start, where drawn
weights give 9 dB, and 14 dB after 130 batches. One PCA of the clips' 4×8×8 blocks to as many
channels gives 25.1 dB; the network stays below it because upsampling repeats pixels.

The architecture does not change. The published training starts from random weights instead.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tools.bundled_models.ridge import Taps, ridge, windows
from vidtok import fsq, ops
from vidtok.autoencoder import Tokenizer
from vidtok.coder import Decoder, Encoder
from vidtok.layers import (
    Attention,
    ResBlock3d,
    SpatialBlock,
    SpatialDownsample,
    SpatialUpsample,
    TemporalBlock,
    TemporalDownsample,
    TemporalUpsample,
)
from vidtok.reference import lengthen
from vidtok.temporal import Stream

ROWS = 30_000
"""Maximum number of cells in one regression; 3×3×3 taps × 64 channels are 1,728 coefficients."""
RIDGE = 1e-2
"""Ridge added to the regressors' covariance, as a fraction of their mean variance."""
NORM_BIAS = 2.0
"""Bias of the last norm before each readout: SiLU is nearly linear around 2 and bent at 0."""
FSQ_SPREAD = 0.9
"""Standard deviation of a channel before FSQ's tanh. The value is a guess on the low side: latents
of video are peaked, and 14.4 of 18 bits were used at the start."""
START_LOGVAR = -5.0
"""Log-variance of KL: a standard deviation of 0.08 beside means of 1, so that a picture shows."""


@torch.no_grad()
def warm_start(model: Tokenizer, clips: Tensor, *, seed: int = 0) -> None:
    """Fit the model's linear path on clips and set its residual branches to zero, in place.

    Args:
        model: float32, of any configuration.
        clips: `[B, T, H, W, 3]` in [-1, 1], T, H and W as the configuration takes them. A few
            dozen small clips are enough.
        seed: chooses the cells that the regressions use.

    Raises:
        ValueError: the clips are not what the network takes.
    """
    config = model.config
    config.check_frames(clips.shape[1])
    config.check_size(clips.shape[2], clips.shape[3])
    _silence(model)
    video = lengthen(config, clips)
    fit = _Fit(video, torch.Generator().manual_seed(seed))
    with _before_each_layer(model, fit):
        h = model.encoder(video, Stream(config.time_rule)).float()
        z = fsq.quantize(h, config.fsq_levels) if config.fsq_levels else h.chunk(2, -1)[0]
        model.decoder(z, Stream(config.time_rule))


def _silence(model: Tokenizer) -> None:
    for module in model.modules():
        if isinstance(module, SpatialBlock | TemporalBlock | ResBlock3d):
            last: nn.Module = module.conv2
        elif isinstance(module, Attention):
            last = module.proj_out
        else:
            continue
        for tensor in ops.weight_and_bias(last):
            nn.init.zeros_(tensor)
    for coder in (model.encoder, model.decoder):
        nn.init.constant_(coder.norm_out.norm.bias, NORM_BIAS)


@contextmanager
def _before_each_layer(model: Tokenizer, fit: "_Fit") -> Iterator[None]:
    """Fit every layer of the linear path when data first reaches it."""
    rule, config = model.config.time_rule, model.config

    def window(layer: nn.Module, x: Tensor, stride: int = 1) -> Tensor:
        return F.pad(Stream(rule).window(layer, x, stride=stride), (0, 0, 1, 1, 1, 1))

    def conv_in(coder: Encoder | Decoder, inputs: tuple[Any, ...]) -> None:
        conv = coder.conv_in
        fit.layer(_plain(conv), window(conv, inputs[0]), Taps(3, 3), inputs[0].shape[1:4])

    def conv_out(coder: Encoder | Decoder) -> Callable[..., None]:
        def hook(last: nn.Module, inputs: tuple[Any, ...], h: Tensor) -> None:
            conv, h = coder.conv_out, coder.norm_out(h)
            x, size = window(conv, h), h.shape[1:4]
            if coder is model.decoder:
                fit.layer(_plain(conv), x, Taps(3, 3), size, pixels=True)
                return
            spread = FSQ_SPREAD if config.fsq_levels else 1.0
            fit.layer(_plain(conv), x, Taps(3, 3), size, latents=(config.z_channels, spread))
            if config.regularizer == "kl":
                weight, bias = ops.weight_and_bias(conv)
                weight[config.z_channels :], bias[config.z_channels :] = 0, START_LOGVAR

        return hook

    def shortcut(block: SpatialBlock, inputs: tuple[Any, ...]) -> None:
        if block.nin_shortcut is not None:
            x = inputs[0]
            fit.layer(_plain(block.nin_shortcut), x, Taps(1, 1), x.shape[1:4])

    def spatial_down(layer: SpatialDownsample, inputs: tuple[Any, ...]) -> None:
        x = F.pad(inputs[0], (0, 0, 0, 1, 0, 1))
        T, H, W = inputs[0].shape[1:4]
        fit.layer(_plain(layer.conv), x, Taps(1, 3, space_stride=2), (T, H // 2, W // 2))

    def spatial_up(layer: SpatialUpsample, inputs: tuple[Any, ...]) -> None:
        doubled = inputs[0].repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = F.pad(doubled, (0, 0, 1, 1, 1, 1))
        fit.layer(_plain(layer.conv), x, Taps(1, 3), doubled.shape[1:4])

    def temporal_down(layer: TemporalDownsample, inputs: tuple[Any, ...]) -> None:
        x, (T, H, W) = inputs[0], inputs[0].shape[1:4]
        taps = Taps(3, 3, time_stride=2)
        fit.layer(_blended(layer), window(layer.conv, x, 2), taps, (T // 2, H, W))

    def temporal_up(layer: TemporalUpsample, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if layer.nearest:
            doubled = x.repeat_interleave(2, 1)
        else:
            doubled = Stream(rule).interpolate(layer, x, layer.latent_frame)
        fit.layer(_blended(layer), window(layer.conv, doubled), Taps(3, 3), doubled.shape[1:4])

    hooks = [coder.register_forward_pre_hook(conv_in) for coder in (model.encoder, model.decoder)]
    last = model.decoder.get_submodule("up_temporal.0.block")[-1]  # type: ignore[index]
    hooks.append(model.encoder.mid.register_forward_hook(conv_out(model.encoder)))
    hooks.append(last.register_forward_hook(conv_out(model.decoder)))
    by_kind: dict[type, Callable[..., None]] = {
        SpatialBlock: shortcut,
        SpatialDownsample: spatial_down,
        SpatialUpsample: spatial_up,
        TemporalDownsample: temporal_down,
        TemporalUpsample: temporal_up,
    }
    hooks += [
        module.register_forward_pre_hook(by_kind[type(module)])
        for module in model.modules()
        if type(module) in by_kind
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


Setter = Callable[[Tensor, Tensor, Tensor], None]
"""Writes a weight and a bias into some rows of a layer: (rows, weight, bias)."""


def _plain(layer: nn.Module) -> tuple[nn.Module, Setter]:
    weight, bias = ops.weight_and_bias(layer)

    def put(rows: Tensor, w: Tensor, b: Tensor) -> None:
        weight[rows], bias[rows] = w.view(-1, *weight.shape[1:]), b

    return layer, put


def _blended(layer: TemporalDownsample | TemporalUpsample) -> tuple[nn.Module, Setter]:
    """Return a setter of the learned kernel that, blended with the plain path, gives the fit."""
    weight, bias = ops.weight_and_bias(layer.conv)
    nn.init.zeros_(layer.mix_factor)  # α = ½, so the learned kernel is doubled

    def put(rows: Tensor, w: Tensor, b: Tensor) -> None:
        plain = layer.blended()[0] - weight / 2
        weight[rows] = 2 * (w.view(-1, *weight.shape[1:]) - plain[rows])
        bias[rows] = 2 * b

    return layer.conv, put


class _Fit:
    """Regresses layers on the principal components of the pixels behind their output cells."""

    def __init__(self, video_BTHWC: Tensor, generator: torch.Generator) -> None:
        self._video = video_BTHWC
        self._generator = generator

    def layer(
        self,
        layer: tuple[nn.Module, Setter],
        x_BTHWC: Tensor,
        taps: Taps,
        size: Sequence[int],
        *,
        pixels: bool = False,
        latents: tuple[int, float] | None = None,
    ) -> None:
        """Fit one layer.

        Args:
            layer: the convolution and what puts a weight and a bias into it.
            x_BTHWC: its input, padded so that every kernel position is inside.
            taps: its kernel.
            size: (T, H, W) of its output.
            pixels: the targets are the pixels themselves (the last layer).
            latents: the targets are this many components, each of this standard deviation.
        """
        conv, put = layer
        channels = ops.weight_and_bias(conv)[0].shape[0]
        cells = self._some_cells(size)
        patches = self._patches(size, cells)
        if pixels:
            targets = patches
        elif latents is not None:
            targets = _components(patches, latents[0], power=0.5) * latents[1]
        else:
            targets = self._stream_targets(patches, channels)
        rows = torch.nonzero(targets[0].isfinite()).flatten()
        put(rows, *ridge(windows(x_BTHWC, taps, cells), targets[:, rows], RIDGE))

    def _some_cells(self, size: Sequence[int]) -> tuple[Tensor, ...]:
        """Return indices (b, t, y, x) of at most `ROWS` cells."""
        T, H, W = size
        total = self._video.shape[0] * T * H * W
        if total <= ROWS:
            flat = torch.arange(total)
        else:
            flat = torch.randint(total, (ROWS,), generator=self._generator)
        return torch.unravel_index(flat, (self._video.shape[0], T, H, W))

    def _patches(self, size: Sequence[int], cells: tuple[Tensor, ...]) -> Tensor:
        """Return the pixels `[N, τ·s·s·3]` that each cell covers."""
        T, H, W = size
        video = self._video
        f, s, r = video.shape[1] // T, video.shape[2] // H, video.shape[3] // W
        grid = video.view(video.shape[0], T, f, H, s, W, r, 3)
        b, t, y, x = cells
        return grid[b, t, :, y, :, x].flatten(1)

    def _stream_targets(self, patches: Tensor, channels: int) -> Tensor:
        """Return components for all channels but two, which hold plus and minus a constant.

        Every norm divides by the spread over channels, which would make bright and dark alike. The
        constants keep the spread nearly fixed. Where a cell has fewer components than the layer
        has channels, the other channels have no target (NaN) and keep their initial weights.
        """
        components = _components(patches, channels - 2, power=0.25)
        components = components * (channels / 2 / components.square().sum(1).mean()).sqrt()
        level = (channels / 4) ** 0.5
        ends = components.new_tensor([level, -level]).expand(len(components), 2)
        missing = channels - 2 - components.shape[1]
        filler = components.new_full((len(components), missing), torch.nan)
        return torch.cat([components, filler, ends], 1)


def _components(patches: Tensor, count: int, power: float) -> Tensor:
    """Return the leading principal components, each divided by its variance to a power."""
    x = (patches - patches.mean(0)).double()
    variance, basis = torch.linalg.eigh(x.T @ x / len(x))
    count = min(count, len(variance))
    top = variance[-count:].flip(0).clamp_min(1e-4 * float(variance[-1]))
    components: Tensor = (x @ basis[:, -count:].flip(1) / top**power).float()
    return components
