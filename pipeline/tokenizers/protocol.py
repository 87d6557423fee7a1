"""What a tokenizer is to the pipeline: its facts, and how it encodes and decodes.

VidTok, the autoencoders of diffusers and those of other packages implement `VideoTokenizer`.
Letters: `B` batch, `T H W` frames and pixels, `Z` latent channels, `t h w` cells of the latent.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from pipeline.config.job import Tile
from pipeline.dataset.schema import Normalize
from pipeline.tokenizers.facts import Facts, Lengths
from vidtok import Encoded

__all__ = [
    "ChunkedTokenizer",
    "EncodeStream",
    "Encoded",
    "Facts",
    "Lengths",
    "Normalize",
    "TiledTokenizer",
    "VideoTokenizer",
    "tiling",
]


@runtime_checkable
class VideoTokenizer(Protocol):
    """A video tokenizer. Calls of one object are never concurrent.

    On a GPU, `encode` should only queue work: reading a value back waits for all queued work.
    """

    @property
    def facts(self) -> Facts:
        """Facts of the tokenizer."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Everything besides weights that decides its cells, JSON-like, without paths."""
        ...

    def encode(self, video: Tensor) -> Encoded:
        """Encode clips of valid length and size.

        Args:
            video: `[B, 3, T, H, W]` float32 in [-1, 1], of any strides, on the module's device.

        Returns:
            `latent` float32 `[B, Z, t, h, w]`; for the kind `indices` also `indices`, int32
            `[B, t, h, w]`; for `latents` the same tensor as `mean`, and `logvar` if the facts say
            so. The module's dtype decides the arithmetic.
        """
        ...

    def decode(self, cells: Tensor, num_frames: int) -> Tensor:
        """Decode what the column holds.

        Args:
            cells: indices `[B, t, h, w]`, integers; or latents `[B, Z, t, h, w]`, float.
            num_frames: T of the clip that was encoded.

        Returns:
            `[B, 3, T, H, W]` near [-1, 1], not clamped.
        """
        ...

    def module(self) -> nn.Module:
        """Return the network: its tensors give the digest, and `to` places it."""
        ...


class TiledTokenizer(VideoTokenizer, Protocol):
    """A video tokenizer whose facts say `tileable`."""

    def encode(self, video: Tensor, *, tile: Tile = None) -> Encoded:
        """Encode clips as `VideoTokenizer.encode`, their pictures in tiles.

        Args:
            video: as there.
            tile: as `tokenize.tile` of a job.
        """
        ...

    def decode(self, cells: Tensor, num_frames: int, *, tile: Tile = None) -> Tensor:
        """Decode as `VideoTokenizer.decode`, pictures in tiles."""
        ...

    def smaller_tile(self, size: tuple[int, ...], tile: Tile, *, decoder: bool) -> int | None:
        """Return the tile to try if a clip ran out of memory; None if no tile needs less.

        Args:
            size: T, H and W of the clip.
            tile: tile that was too large.
            decoder: whether `decode` was tried, and not `encode`.
        """
        ...


def tiling(tokenizer: VideoTokenizer, tile: Tile) -> dict[str, Any]:
    """Return the arguments by which a tokenizer uses tiles; none if it has no tiles."""
    return {"tile": tile} if tile is not None and tokenizer.facts.tileable else {}


class EncodeStream(Protocol):
    """Encoder of one clip whose frames arrive in pieces."""

    def push(self, video: Tensor) -> Encoded | None:
        """Take frames `[B, 3, n, H, W]`; return the next latent frames, None if there are none."""
        ...


class ChunkedTokenizer(VideoTokenizer, Protocol):
    """A video tokenizer whose facts say `chunkable`."""

    def encode(
        self, video: Tensor, chunk_frames: int | None = None, as_reference: bool = False
    ) -> Encoded:
        """Encode clips as `VideoTokenizer.encode`, some frames at a time.

        Args:
            video: as there.
            chunk_frames: frames at a time, a multiple of the temporal factor. None: all.
            as_reference: repeat the chunking of a published reference, accidents included.
        """
        ...

    def decode(
        self,
        cells: Tensor,
        num_frames: int,
        chunk_frames: int | None = None,
        as_reference: bool = False,
    ) -> Tensor:
        """Decode as `VideoTokenizer.decode`, some frames at a time; arguments as `encode`."""
        ...

    def encode_stream(self, num_frames: int, chunk_frames: int) -> EncodeStream:
        """Begin a clip of `num_frames` frames whose frames arrive in pieces."""
        ...
