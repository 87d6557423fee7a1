"""The frames of a clip in chunks, which an encoder takes one after another."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vidtok import reference
from vidtok.config import TokenizerConfig
from vidtok.temporal import Stream

Network = Callable[[Tensor, Stream], Tensor]
"""An encoder or decoder: one chunk of a clip in channels-last, and its place in the clip."""


class Chunks:
    """Splits the frames of a clip into chunks and encodes each chunk.

    Args:
        encoder: the network.
        config: its configuration.
        num_frames: number of frames of the clip.
        chunk_frames: number of frames of a chunk; None for one chunk.
    """

    def __init__(
        self,
        encoder: Network,
        config: TokenizerConfig,
        num_frames: int,
        chunk_frames: int | None,
    ) -> None:
        f = config.temporal_factor
        # Where the fill is the first frame, its copies in front of a clip of 1 + kf frames stay
        # equal through all layers. A compact stream leaves them out: 16 % less arithmetic.
        compact = config.time_rule.fill == "first" and num_frames % f == 1 % f
        self._encoder = encoder
        self._config = config
        self._stream = Stream(config.time_rule, compact=compact)
        self._copies = 0 if compact else reference.copies_in_front(config, num_frames)
        self._left = self._copies + num_frames
        self._step = chunk_frames
        self._next = self._left if chunk_frames is None else chunk_frames + (1 if compact else 0)
        self._first = True
        self._held: list[Tensor] = []
        self._size: tuple[int, int, int] | None = None
        """B, H and W of the frames; None before the first."""

    def take(self, x_BTHWC: Tensor) -> Iterator[Tensor]:
        """Yield the encoder's output of each chunk that is full or is the last of the clip.

        Raises:
            ValueError: the frames are more than the clip has, or their B, H or W is another than
                before.
        """
        B, _, H, W, _ = x_BTHWC.shape
        if self._size not in (None, (B, H, W)):
            raise ValueError(
                f"push: frames of B, H, W = {B, H, W}: must be {self._size}, as those before"
            )
        self._size = B, H, W
        self._held.append(reference.repeat_first(x_BTHWC, self._copies))
        self._copies = 0
        while (held := sum(piece.shape[1] for piece in self._held)) and self._left:
            size = min(self._next, self._left)
            if held < size:
                return
            x = self._held[0] if len(self._held) == 1 else torch.cat(self._held, 1)
            x, rest = x[:, :size], x[:, size:]
            self._held = [rest] if rest.shape[1] else []
            self._left -= size
            yield self._encoder(x, self._stream.chunk(first=self._first, last=not self._left))
            self._first, self._next = False, self._step or size
        if self._held:
            raise ValueError("push: there are more frames than num_frames of encode_stream")
