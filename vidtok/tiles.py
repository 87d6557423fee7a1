"""Large pictures in tiles, with the result of the whole picture.

All layers but one are convolutions, whose outputs depend on pixels within a fixed reach. The levels
of a network therefore run tile by tile, each with a halo as wide as their reach, which is cut off
afterwards. Only the middle sees all positions of a frame, in its attention: it runs on the whole
latent grid, which is small. The result equals that without tiles, except for float rounding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from vidtok.coder import Decoder, Encoder
from vidtok.config import TokenizerConfig
from vidtok.temporal import Stream


def encoder_reach(config: TokenizerConfig) -> int:
    """Return the distance in pixels from which a pixel reaches a cell of the encoder's levels."""
    reach, scale = 1, 1  # conv_in
    for level in range(len(config.ch_mult)):
        reach += 2 * config.num_res_blocks * scale
        if level in (config.spatial_ds or ()):
            reach += scale  # a kernel of three with stride two, beyond its own two pixels
            scale *= 2
        if level in (config.tempo_ds or ()):
            reach += scale
    return reach


def decoder_reach(config: TokenizerConfig) -> int:
    """Return the distance in pixels that the value of a cell reaches in the decoder's levels."""
    reach, scale = 1, config.spatial_factor  # conv_out
    for level in reversed(range(len(config.ch_mult))):
        reach += 2 * (config.num_res_blocks + 1) * scale
        if level in (config.spatial_us or ()):
            scale //= 2
            reach += scale
        if level in (config.tempo_us or ()):
            reach += scale
    return reach


@dataclass(frozen=True, slots=True)
class Span:
    """One side of a tile, in latent cells: [start, stop), and [low, high) with its halo."""

    start: int
    stop: int
    low: int
    high: int


def encode(
    encoder: Encoder, config: TokenizerConfig, tile: int, x_BTHWC: Tensor, stream: Stream
) -> Tensor:
    """Return what `encoder(x_BTHWC, stream)` returns, with its levels in tiles.

    Args:
        encoder: the network.
        config: its configuration.
        tile: side in pixels of the square whose area a tile has at most, without its halo.
        x_BTHWC: one chunk of a clip.
        stream: stream of the clip, always of tiles of one size.
    """
    B, _, H, W, _ = x_BTHWC.shape
    s = config.spatial_factor
    h: Tensor | None = None
    for n, (rows, columns) in enumerate(grid(config, H // s, W // s, tile, encoder_reach(config))):
        pixels = x_BTHWC[:, :, rows.low * s : rows.high * s, columns.low * s : columns.high * s]
        y = encoder.levels(pixels.contiguous(), stream.tile(n))
        if h is None:
            h = y.new_empty((B, y.shape[1], H // s, W // s, y.shape[-1]))
        h[:, :, rows.start : rows.stop, columns.start : columns.stop] = _inner(y, rows, columns, 1)
    assert h is not None
    return encoder.head(h, stream)


def decode(
    decoder: Decoder, config: TokenizerConfig, tile: int, z_BTHWC: Tensor, stream: Stream
) -> Tensor:
    """Return what `decoder(z_BTHWC, stream)` returns, with its levels in tiles; as `encode`."""
    B, _, h, w, _ = z_BTHWC.shape
    s = config.spatial_factor
    middle = decoder.head(z_BTHWC, stream)
    out: Tensor | None = None
    for n, (rows, columns) in enumerate(grid(config, h, w, tile, decoder_reach(config))):
        cells = middle[:, :, rows.low : rows.high, columns.low : columns.high]
        # A copy, because the levels overwrite their input, and tiles overlap.
        y = decoder.levels(cells.clone(memory_format=torch.contiguous_format), stream.tile(n))
        if out is None:
            out = y.new_empty((B, y.shape[1], h * s, w * s, y.shape[-1]))
        area = out[:, :, rows.start * s : rows.stop * s, columns.start * s : columns.stop * s]
        area.copy_(_inner(y, rows, columns, s))
    assert out is not None
    return out


def _inner(y_BTHWC: Tensor, rows: Span, columns: Span, size: int) -> Tensor:
    """Return a tile without its halo; a cell has `size` rows and columns."""
    top, left = (rows.start - rows.low) * size, (columns.start - columns.low) * size
    height, width = (rows.stop - rows.start) * size, (columns.stop - columns.start) * size
    return y_BTHWC[:, :, top : top + height, left : left + width]


def grid(
    config: TokenizerConfig, h: int, w: int, tile: int, reach: int
) -> Iterator[tuple[Span, Span]]:
    """Yield rows and columns of the tiles of h × w cells.

    Of all grids whose tiles are small enough, it is the one that computes the fewest pixels. It can
    consist of strips.
    """
    s = config.spatial_factor
    most, halo = max(1, (tile // s) ** 2), -(-reach // s)
    tried = []
    for down in range(1, h + 1):
        height = -(-h // down)
        across = -(-w // max(1, most // height))
        across = min(w, max(1, across))
        if height * -(-w // across) <= most:
            rows, columns = _spans(h, down, halo), _spans(w, across, halo)
            cells = sum(r.high - r.low for r in rows) * sum(c.high - c.low for c in columns)
            tried.append((cells, down, rows, columns))
    _, _, rows, columns = min(tried, key=lambda found: found[:2])
    return ((r, c) for r in rows for c in columns)


def _spans(length: int, parts: int, halo: int) -> list[Span]:
    edges = [length * n // parts for n in range(parts + 1)]
    return [
        Span(start, stop, max(0, start - halo), min(length, stop + halo))
        for start, stop in pairwise(edges)
    ]
