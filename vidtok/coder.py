"""Encoder and decoder, one implementation for the three networks.

    encoder: conv_in ─► levels 0 … L−1 ─► mid ─► conv_out
    decoder: conv_in ─► mid ─► levels L−1 … 0 ─► conv_out

A level is a sequence of pairs (spatial block, temporal block), then resamplers of space and time.

Both take and return `[B, T, H, W, C]`. A `Stream` tells them which part of its clip a chunk is.
Activations are dropped as soon as the next layer has them. Source: VidTok, arXiv 2412.13061.
"""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn

from vidtok import ops
from vidtok.config import TokenizerConfig
from vidtok.layers import (
    Attention,
    ResBlock3d,
    SpatialBlock,
    SpatialDownsample,
    SpatialUpsample,
    TemporalBlock,
    TemporalDownsample,
    TemporalUpsample,
    time_conv,
)
from vidtok.norm import NormAct
from vidtok.temporal import Stream
from vidtok.time_rule import TimeRule


class _Level(nn.Module):
    """Spatial or temporal half of one level: its blocks and, at some levels, its resampler."""

    def __init__(self, block: list[nn.Module]) -> None:
        super().__init__()
        self.block = nn.ModuleList(block)
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None


class _Middle(nn.Module):
    def __init__(self, channels: int, rule: TimeRule) -> None:
        super().__init__()
        self.block_1 = ResBlock3d(channels, rule)
        self.attn_1 = Attention(channels, rule)
        self.block_2 = ResBlock3d(channels, rule)

    def forward(self, x: Tensor, stream: Stream) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x, stream)), stream)  # type: ignore[no-any-return]


def _levels(widths: list[tuple[int, int]], rule: TimeRule) -> tuple[_Level, _Level]:
    """Return the spatial and the temporal half of a level: one pair of blocks per (in, out)."""
    spatial: list[nn.Module] = [SpatialBlock(c_in, c_out) for c_in, c_out in widths]
    temporal: list[nn.Module] = [TemporalBlock(c_out, rule) for _, c_out in widths]
    return _Level(spatial), _Level(temporal)


def _layers(
    spatial: Iterable[nn.Module], temporal: Iterable[nn.Module]
) -> list[tuple[nn.Module, bool]]:
    """Return the layers of levels in their order, and whether a layer works over time."""
    layers: list[tuple[nn.Module, bool]] = []
    for space, time in cast(Iterable[tuple[_Level, _Level]], zip(spatial, temporal, strict=True)):
        for one_space, one_time in zip(space.block, time.block, strict=True):
            layers += [(one_space, False), (one_time, True)]
        for resampler, over_time in (
            (space.downsample, False),
            (space.upsample, False),
            (time.downsample, True),
            (time.upsample, True),
        ):
            if resampler is not None:
                layers.append((resampler, over_time))
    return layers


class Encoder(nn.Module):
    """Frames `[B, T, H, W, 3]` → `[B, t, h, w, encoder_channels]`."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        rule = config.time_rule
        widths = [config.ch * m for m in config.ch_mult]
        self.conv_in = time_conv(rule, nn.Conv3d(3, config.ch, 3))
        self.down, self.down_temporal = nn.ModuleList(), nn.ModuleList()
        width = config.ch
        for level, c_out in enumerate(widths):
            pairs = [(width, c_out)] + [(c_out, c_out)] * (config.num_res_blocks - 1)
            spatial, temporal = _levels(pairs, rule)
            if level in (config.spatial_ds or ()):
                spatial.downsample = SpatialDownsample(c_out)
            if level in (config.tempo_ds or ()):
                temporal.downsample = TemporalDownsample(c_out, rule)
            self.down.append(spatial)
            self.down_temporal.append(temporal)
            width = c_out
        self.mid = _Middle(width, rule)
        self.norm_out = NormAct(width)
        self.conv_out = time_conv(rule, nn.Conv3d(width, config.encoder_channels, 3))

    def forward(self, x_BTHWC: Tensor, stream: Stream) -> Tensor:
        """Encode one chunk of a clip."""
        depth = len(self.down)
        return self.deep(self.shallow(x_BTHWC, stream, depth), stream, depth)

    def shallow(self, x_BTHWC: Tensor, stream: Stream, depth: int) -> Tensor:
        """Return what the first `depth` levels give; a value depends only on pixels near it."""
        h = ops.conv3d(stream.window(self.conv_in, x_BTHWC), *ops.weight_and_bias(self.conv_in))
        for layer, over_time in _layers(list(self.down)[:depth], list(self.down_temporal)[:depth]):
            h = layer(h, stream) if over_time else layer(h)
        return h

    def deep(self, h: Tensor, stream: Stream, depth: int) -> Tensor:
        """Return the encoder's output for that of `shallow`. Without gradients h is lost."""
        for layer, over_time in _layers(list(self.down)[depth:], list(self.down_temporal)[depth:]):
            h = layer(h, stream) if over_time else layer(h)
        window = stream.window(self.conv_out, self.mid(h, stream), norm=self.norm_out)
        return ops.conv3d(window, *ops.weight_and_bias(self.conv_out))


class Decoder(nn.Module):
    """Latents `[B, t, h, w, Z]` → frames `[B, T, H, W, 3]`, not clamped, not trimmed."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        rule = config.time_rule
        widths = [config.ch * m for m in config.ch_mult]
        width = widths[-1]
        self.conv_in = time_conv(rule, nn.Conv3d(config.z_channels, width, 3))
        self.mid = _Middle(width, rule)
        halves = []
        latent_frame = 1
        for level in reversed(range(len(widths))):
            pairs = [(width, widths[level])] + [(widths[level],) * 2] * config.num_res_blocks
            spatial, temporal = _levels(pairs, rule)
            width = widths[level]
            if level in (config.spatial_us or ()):
                spatial.upsample = SpatialUpsample(width)
            if level in (config.tempo_us or ()):
                temporal.upsample = TemporalUpsample(width, rule, latent_frame)
                latent_frame *= 2
            halves.append((spatial, temporal))
        self.up = nn.ModuleList(spatial for spatial, _ in reversed(halves))
        self.up_temporal = nn.ModuleList(temporal for _, temporal in reversed(halves))
        self.norm_out = NormAct(width)
        self.conv_out = time_conv(rule, nn.Conv3d(width, 3, 3))

    def forward(self, z_BTHWC: Tensor, stream: Stream) -> Tensor:
        """Decode one chunk of a latent clip."""
        depth = len(self.up)
        return self.shallow(self.deep(z_BTHWC, stream, depth), stream, depth)

    def deep(self, z_BTHWC: Tensor, stream: Stream, depth: int) -> Tensor:
        """Return the input of the last `depth` levels, those with the most pixels."""
        h: Tensor = ops.conv3d(
            stream.window(self.conv_in, z_BTHWC), *ops.weight_and_bias(self.conv_in)
        )
        h = self.mid(h, stream)
        up = (list(half)[depth:][::-1] for half in (self.up, self.up_temporal))
        for layer, over_time in _layers(*up):
            h = layer(h, stream) if over_time else layer(h)
        return h

    def shallow(self, h: Tensor, stream: Stream, depth: int) -> Tensor:
        """Return frames for the output of `deep`; a pixel depends only on values near it.

        Without gradients h is lost.
        """
        up = (list(half)[:depth][::-1] for half in (self.up, self.up_temporal))
        for layer, over_time in _layers(*up):
            h = layer(h, stream) if over_time else layer(h)
        window = stream.window(self.conv_out, h, norm=self.norm_out)
        return ops.conv3d(window, *ops.weight_and_bias(self.conv_out))
