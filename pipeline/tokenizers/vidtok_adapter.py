"""VidTok as a `ChunkedTokenizer`: the models of this package, by their plain names."""

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor, nn

import vidtok
from pipeline.config.job import HUB, RANDOM, Tile
from pipeline.errors import ConfigError, one_line
from pipeline.tokenizers.facts import COMPILER, vidtok_facts, vidtok_settings
from pipeline.tokenizers.protocol import Encoded, EncodeStream

UNTRAINED_SEED: Final = 0
"""Seed of the initialisation with `weights: random`."""

_MAX_SHAPES: Final = 64
"""Maximum number of shapes of clips that an encoder is compiled for."""


def open_vidtok(model: str, weights: str | None) -> "VidTok":
    """Return a VidTok model; its name and weights have no `checks.vidtok_faults`."""
    if weights == RANDOM:
        return VidTok(vidtok.build(model, seed=UNTRAINED_SEED))
    source = model if weights is None or weights == HUB else weights
    return VidTok(vidtok.load(source, config=model))


class VidTok:
    """A `ChunkedTokenizer` and `TiledTokenizer`."""

    def __init__(self, model: vidtok.Tokenizer) -> None:
        self._model = model
        self.facts = vidtok_facts(model.config)

    @property
    def config(self) -> Mapping[str, Any]:
        """Configuration of the network, without its name."""
        return vidtok_settings(self._model.config)

    def module(self) -> nn.Module:
        """Return the network."""
        return self._model

    def compile(self) -> None:
        """Have the encoder compiled as one graph at its first call with each shape."""
        self._model.encoder.compile(
            fullgraph=True, dynamic=False, backend=COMPILER, recompile_limit=_MAX_SHAPES
        )

    def encode(
        self,
        video: Tensor,
        chunk_frames: int | None = None,
        as_reference: bool = False,
        tile: Tile = None,
    ) -> Encoded:
        """Encode clips; see `vidtok.Tokenizer.encode`. Values are in range by construction.

        Raises:
            ConfigError: the encoder could not be compiled on this machine.
        """
        try:
            return self._model.encode(video, chunk_frames, as_reference, tile, check_range=False)
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise ConfigError(
                f"compile = true: {one_line(error, max_chars=200)}; leave it out, or install Triton"
                " and a C++ compiler on every node"
            ) from error

    def decode(
        self,
        cells: Tensor,
        num_frames: int,
        chunk_frames: int | None = None,
        as_reference: bool = False,
        tile: Tile = None,
    ) -> Tensor:
        """Decode indices or latents; see `vidtok.Tokenizer.decode`."""
        model, indices = self._model, self.facts.kind == "indices"
        decode = model.decode_indices if indices else model.decode
        return decode(cells, num_frames, chunk_frames, as_reference, tile=tile)

    def smaller_tile(self, size: tuple[int, ...], tile: Tile, *, decoder: bool) -> int | None:
        """Return the tile to try next; see `vidtok.Tokenizer.smaller_tile`."""
        frames, height, width = size
        return self._model.smaller_tile((frames, height, width), tile, decoder=decoder)

    @property
    def channels(self) -> vidtok.ChannelOrder | None:
        """Order of the FSQ channels, from the file beside the weights; None if there is none."""
        return self._model.channels

    def decode_prefixes(
        self, prefixes: Tensor, num_frames: int, channels: int, tile: Tile = None
    ) -> Tensor:
        """Decode prefixes of the first channels; see `vidtok.Tokenizer.decode_indices`."""
        return self._model.decode_indices(prefixes, num_frames, tile=tile, channels=channels)

    def encode_stream(self, num_frames: int, chunk_frames: int, tile: Tile = None) -> EncodeStream:
        """Begin a clip whose frames arrive in pieces."""
        return self._model.encode_stream(num_frames, chunk_frames, tile, check_range=False)
