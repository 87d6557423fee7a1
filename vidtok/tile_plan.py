"""The parts in which a network processes a large picture: how far layers reach, and what fits.

All layers but one are convolutions, whose outputs depend on pixels within a fixed reach. The levels
with the most pixels can therefore run tile by tile, each tile with a halo as wide as their reach.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import isqrt

import torch

from vidtok import free_memory, ops
from vidtok.config import TokenizerConfig


def encoder_reach(config: TokenizerConfig, depth: int) -> int:
    """Return the distance in pixels from which a pixel reaches the encoder's first levels."""
    reach, scale = 1, 1  # conv_in
    for level in range(depth):
        reach += 2 * config.num_res_blocks * scale
        if level in (config.spatial_ds or ()):
            reach += scale  # a kernel of three with stride two, beyond its own two pixels
            scale *= 2
        if level in (config.tempo_ds or ()):
            reach += scale
    return reach


def decoder_reach(config: TokenizerConfig, depth: int) -> int:
    """Return the distance in pixels that a value reaches in the decoder's last levels."""
    reach, scale = 1, 2 ** sum(level < depth for level in config.spatial_us or ())  # conv_out
    for level in reversed(range(depth)):
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


@dataclass(frozen=True, slots=True)
class Plan:
    """The parts in which a network processes a picture."""

    depth: int = 0
    """Number of levels that run tile by tile. 0: the whole network runs on the whole picture."""
    tiles: tuple[tuple[Span, Span], ...] = ()
    """Rows and columns of the tiles."""


@cache
def plan(config: TokenizerConfig, frames: int, h: int, w: int, tile: int, *, decoder: bool) -> Plan:
    """Return the parts for tiles of a size.

    A level with no more activations than one tile has runs on the whole picture. This makes the
    halo narrow: the levels with the fewest pixels reach farthest.

    Args:
        config: configuration of the network.
        frames: number of frames that the network processes.
        h: height of the latent in cells.
        w: width of the latent in cells.
        tile: side in pixels of a square of a tile's maximum area, without its halo.
        decoder: whether the network is the decoder.
    """
    s, depth = config.spatial_factor, len(config.ch_mult)
    if h * w <= (tile // s) ** 2:
        return Plan()

    def elements(level: int, height: int, width: int) -> int:
        return config.level_elements(level, frames, height, width, decoder=decoder)

    most = max(elements(level, tile, tile) for level in range(depth))
    while depth > 1 and elements(depth - 1, h * s, w * s) <= most:
        depth -= 1
    reach = (decoder_reach if decoder else encoder_reach)(config, depth)
    return Plan(depth, tuple(grid(config, h, w, tile, reach)))


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
            tried.append((_padded(h, down, halo) * _padded(w, across, halo), down, across))
    _, down, across = min(tried)
    columns = _spans(w, across, halo)
    return ((r, c) for r in _spans(h, down, halo) for c in columns)


@cache
def _padded(length: int, parts: int, halo: int) -> int:
    """Return the length of all parts together, with their halos."""
    edges = [length * n // parts for n in range(parts + 1)]
    outside = sum(max(0, halo - n) + max(0, n + halo - length) for n in edges[1:-1])
    return length + 2 * halo * (parts - 1) - outside


def _spans(length: int, parts: int, halo: int) -> list[Span]:
    edges = [length * n // parts for n in range(parts + 1)]
    return [
        Span(start, stop, max(0, start - halo), min(length, stop + halo))
        for start, stop in pairwise(edges)
    ]


_COPIES = 5.5
"""Number of copies of the largest activation that a network holds at its peak, with what kernels
need. Counted on the branches of a GPU: 4.1 to 5.5."""

_CPU_COPIES = {False: 2.0, True: 4.0}
"""The same on a CPU, where activations are processed in pieces: of an encoder, of a decoder."""

_MIDDLE_COPIES = 8
"""The same for the middle, which sees the whole picture: mostly those of its attention."""

SMALLEST_TILE = 64
"""Side in pixels of the smallest tile that is chosen. A smaller tile would be mostly halo."""

ALWAYS_FITS = 64 << 20
"""Bytes up to which nothing asks how much memory is free."""


class NoRoomError(torch.OutOfMemoryError):
    """The free memory has no room for one clip in tiles of any size."""


@dataclass(frozen=True, slots=True)
class Work:
    """One call of a network with some clips."""

    config: TokenizerConfig
    """Configuration of the network."""
    decoder: bool
    """Whether the network is the decoder."""
    frames: int
    """Number of frames of a clip that the network processes."""
    height: int
    """Height of the pictures in pixels."""
    width: int
    """Width of the pictures in pixels."""
    dtype: torch.dtype
    """Type that the network computes in."""
    device: torch.device
    """Device that the network computes on."""
    clips: int = 1
    """Number of clips."""

    def plan(self, tile: int | None) -> Plan:
        """Return the parts for tiles of a size, or for whole pictures."""
        if tile is None:
            return Plan()
        s = self.config.spatial_factor
        h, w = self.height // s, self.width // s
        return plan(self.config, self.frames, h, w, tile, decoder=self.decoder)

    def peak_bytes(self, tile: int | None = None) -> int:
        """Return an estimate of the memory that the call needs beyond its input."""
        parts, config, s = self.plan(tile), self.config, self.config.spatial_factor
        levels, size, held = len(config.ch_mult), (self.height, self.width), 0
        if parts.depth:
            levels, held = parts.depth, self._elements(min(parts.depth, levels - 1), size)
            rows, columns = (
                max(n.high - n.low for n in side) for side in zip(*parts.tiles, strict=True)
            )
            size = rows * s, columns * s
        copies = _CPU_COPIES[self.decoder] if ops.is_cpu(self.device) else _COPIES
        most = copies * max(self._elements(level, size) for level in range(levels))
        cells = -(-self.frames // config.temporal_factor) * self.height * self.width // s**2
        middle = _MIDDLE_COPIES * cells * config.ch * config.ch_mult[-1]
        result = 3 * self.frames * self.height * self.width if self.decoder else 0
        return int(self.clips * self.dtype.itemsize * (max(most + held, middle) + 3 * result))

    def largest_tile(self) -> int | None:
        """Return the largest tile that the free memory has room for; None: no tiles.

        Raises:
            NoRoomError: there is no room for any tile.
        """
        if (free := self._free()) is None or self.peak_bytes() <= free:
            return None
        if (tile := self._largest_within(free)) is not None:
            return tile
        least = self._least_needy()
        shape = f"{self.clips}×{self.frames}×{self.height}×{self.width}"
        raise NoRoomError(
            f"clips of {shape}: need {self.peak_bytes(least) >> 20} MiB in tiles of {least}"
            f" pixels, {self.device} has {int(free) >> 20} MiB for them; take fewer frames at a"
            " time, or free memory"
        )

    def smaller_tile(self, tile: int | None) -> int | None:
        """Return the tile to try after one that was too large; None if no tile needs less memory.

        It is the largest that needs at most half of the memory. If there is none, it is the tile
        that needs least.

        Args:
            tile: tile that was too large; None for whole pictures.
        """
        need = self.peak_bytes(tile)
        if (half := self._largest_within(need / 2)) is not None:
            return half
        least = self._least_needy()
        return least if self.peak_bytes(least) < need else None

    # The need does not grow with the tile: a smaller tile has more levels in tiles, whose halos
    # are wider. So tiles are tried one after another.

    def _largest_within(self, room: float) -> int | None:
        return next((tile for tile in self._tiles() if self.peak_bytes(tile) <= room), None)

    def _least_needy(self) -> int:
        return min(self._tiles(), key=self.peak_bytes)

    def _tiles(self) -> range:
        """Return the tiles to choose from, the largest first."""
        s = self.config.spatial_factor
        smallest = -(-SMALLEST_TILE // s) * s
        return range(smallest, max(smallest, isqrt(self.height * self.width)) + 1, s)[::-1]

    def clips_that_fit(self) -> int:
        """Return how many of the clips the free memory has room for without tiles, or 1."""
        if (free := self._free()) is None:
            return self.clips
        pixels = 2 * 3 * self.frames * self.height * self.width  # the input, and as bytes or floats
        each = self.peak_bytes() // self.clips + pixels * self.dtype.itemsize
        return max(1, int(free // each))

    def _free(self) -> float | None:
        return None if self.peak_bytes() <= ALWAYS_FITS else free_memory.free_bytes(self.device)

    def _elements(self, level: int, size: tuple[int, int]) -> int:
        return self.config.level_elements(level, self.frames, *size, decoder=self.decoder)
