"""Large pictures in tiles, with the result of the whole picture.

The levels with the most pixels run tile by tile, each tile with a halo as wide as their reach,
which is cut off afterwards. All other levels, and the middle with its attention over the positions
of a frame, run on the whole picture. The result is that without tiles, except for float rounding.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vidtok import ops
from vidtok.chunks import Network
from vidtok.coder import Decoder, Encoder
from vidtok.config import TokenizerConfig
from vidtok.temporal import Stream
from vidtok.tile_plan import Plan, Span, Work

Tile = int | Literal["auto"] | None
"""Side in pixels of a square of a tile's maximum area; a choice by free memory; or no tiles."""


def batches(
    network: Encoder | Decoder,
    config: TokenizerConfig,
    x_BCTHW: Tensor,
    dtype: torch.dtype,
    chunk: int | None,
    tile: Tile,
) -> Sequence[Tensor]:
    """Return clips or latents in the batches that the network takes one after another.

    On an accelerator no activation of a batch has more elements than `ops.MAX_ELEMENTS`. With
    `auto` a batch also fits the memory: small batches cost nothing, and tiles cost their halos.
    Clips that are larger than a tile come one by one.

    Args:
        network: the network.
        config: its configuration.
        x_BCTHW: clips or latents.
        dtype: type that the network computes in.
        chunk: number of frames or latent frames that it gets at a time; None for all.
        tile: size of the tiles.
    """
    B, _, T, H, W = x_BCTHW.shape
    device = next(network.parameters()).device
    frames = min(T, chunk or T) + (config.temporal_factor if isinstance(network, Encoder) else 0)
    work = _work(network, config, (B, frames, H, W), dtype, device)  # with copies in front
    most = B
    if not ops.is_cpu(device):
        elements = config.clip_elements(work.frames, work.height, work.width)
        most = max(1, ops.MAX_ELEMENTS // elements)
    if tile == "auto":
        most = min(most, work.clips_that_fit())
    elif isinstance(tile, int) and tile**2 < work.height * work.width:
        most = 1
    return torch.split(x_BCTHW, most)


def _work(
    network: Encoder | Decoder,
    config: TokenizerConfig,
    size: tuple[int, int, int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Work:
    """Return the work of a call; `size` is clips, frames, height and width of its input."""
    decoder = isinstance(network, Decoder)
    f, s = (config.temporal_factor, config.spatial_factor) if decoder else (1, 1)
    B, T, H, W = size
    return Work(config, decoder, T * f, H * s, W * s, dtype, device, B)


def smaller(
    network: Encoder | Decoder,
    config: TokenizerConfig,
    size: tuple[int, int, int],
    dtype: torch.dtype,
    tile: Tile,
) -> int | None:
    """Return the tile to try after one that was too large; None if no tile needs less memory.

    Args:
        network: the network.
        config: its configuration.
        size: frames, height and width of the clip.
        dtype: type that the network computes in.
        tile: size of the tiles that were too large.

    Raises:
        NoRoomError: `tile` is `auto`, and the free memory has no room for any tile.
    """
    frames, height, width = size
    decoder, f = isinstance(network, Decoder), config.temporal_factor
    inside = -(-frames // f) * f if decoder else frames + f  # with copies in front
    device = next(network.parameters()).device
    work = Work(config, decoder, inside, height, width, dtype, device)
    return work.smaller_tile(work.largest_tile() if tile == "auto" else tile)


def in_tiles(network: Encoder | Decoder, config: TokenizerConfig, tile: Tile) -> Network:
    """Return the network, or the same in tiles: for one clip or its chunks."""
    return network if tile is None else _Tiles(network, config, tile)


class _Tiles:
    """An encoder or decoder in tiles, for one clip. Its first chunk decides what `auto` is."""

    def __init__(
        self, network: Encoder | Decoder, config: TokenizerConfig, tile: int | Literal["auto"]
    ) -> None:
        self._network = network
        self._config = config
        self._tile = tile
        self._plan: Plan | None = None

    def __call__(self, x_BTHWC: Tensor, stream: Stream) -> Tensor:
        """Return what the network returns for a chunk of any strides, except for float rounding."""
        network, plan = self._network, self._planned(x_BTHWC)
        if not plan.depth:
            return network(x_BTHWC.contiguous(), stream)  # type: ignore[no-any-return]
        if isinstance(network, Encoder):
            return network.deep(self._shallow(plan, x_BTHWC, stream), stream, plan.depth)
        return self._shallow(plan, network.deep(x_BTHWC, stream, plan.depth), stream)

    def _planned(self, x: Tensor) -> Plan:
        if self._plan is None:
            B, T, H, W, _ = x.shape
            work = _work(self._network, self._config, (B, T, H, W), x.dtype, x.device)
            tile = self._tile if isinstance(self._tile, int) else work.largest_tile()
            self._plan = work.plan(tile)
        return self._plan

    def _shallow(self, plan: Plan, x_BTHWC: Tensor, stream: Stream) -> Tensor:
        """Return what the network's first or last levels give for the whole picture."""
        h, w = plan.tiles[-1][0].stop, plan.tiles[-1][1].stop
        side = x_BTHWC.shape[2] // h
        out: Tensor | None = None
        for n, (rows, columns) in enumerate(plan.tiles):
            part = x_BTHWC[
                :, :, rows.low * side : rows.high * side, columns.low * side : columns.high * side
            ]
            # A copy, because the levels overwrite their input, tiles overlap, and a video may be
            # a view with other strides.
            part = part.clone(memory_format=torch.contiguous_format)
            y = self._network.shallow(part, stream.tile(n), plan.depth)
            size = y.shape[2] // (rows.high - rows.low)
            if out is None:
                out = y.new_empty((*y.shape[:2], h * size, w * size, y.shape[-1]))
            area = out[
                :,
                :,
                rows.start * size : rows.stop * size,
                columns.start * size : columns.stop * size,
            ]
            area.copy_(_inner(y, rows, columns, size))
        assert out is not None
        return out


def _inner(y_BTHWC: Tensor, rows: Span, columns: Span, size: int) -> Tensor:
    """Return a tile without its halo; a cell has `size` rows and columns."""
    top, left = (rows.start - rows.low) * size, (columns.start - columns.low) * size
    height, width = (rows.stop - rows.start) * size, (columns.stop - columns.start) * size
    return y_BTHWC[:, :, top : top + height, left : left + width]
