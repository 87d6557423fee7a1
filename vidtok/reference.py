"""What the public reference does with clips that it should refuse, and how it tiles long ones.

Kept apart because most of it is accident: clips lengthened in mid-video, states that are stale by
one latent frame near the first one. Those who compare with the reference get its very numbers;
everybody else uses the exact chunking of `Tokenizer`. Source: the VidTok v1.1 release, tiled with
overlap as its published scripts do.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vidtok.coder import Decoder, Encoder
from vidtok.config import TokenizerConfig
from vidtok.temporal import Rows, Stream, double


def copies_in_front(config: TokenizerConfig, num_frames: int) -> int:
    """Return how many copies of its first frame a clip gets in front, by the network's rule.

    Causal v1.0 prepends f - 1 frames to any length that is no multiple of f, v1.1 as many as make
    it one; the non-causal network none.
    """
    f = config.temporal_factor
    rest = num_frames % f
    if not config.causal or rest == 0:
        return 0
    return f - 1 if config.network == "causal_v1_0" else f - rest


def repeat_first(x_BTHWC: Tensor, copies: int) -> Tensor:
    """Return the clip with copies of its first frame in front."""
    if not copies:
        return x_BTHWC
    return torch.cat([x_BTHWC[:, :1].expand(-1, copies, -1, -1, -1), x_BTHWC], 1)


def lengthen(config: TokenizerConfig, x_BTHWC: Tensor) -> Tensor:
    """Return the clip as long as the network makes it."""
    return repeat_first(x_BTHWC, copies_in_front(config, x_BTHWC.shape[1]))


def encode_tiles(
    encoder: Encoder, config: TokenizerConfig, x_BTHWC: Tensor, chunk_frames: int
) -> Iterator[Tensor]:
    """Yield the encoder's output by chunks: one frame, then `chunk_frames` at a time.

    Every chunk is lengthened on its own: equal to the whole clip only where T is 1 modulo f.
    """
    stream, length = Stream(config.time_rule), x_BTHWC.shape[1]
    for start, end in _chunks(length, chunk_frames):
        stream.chunk(first=start == 0, last=end == length)
        yield encoder(lengthen(config, x_BTHWC[:, start:end]), stream)


def decode_tiles(
    decoder: Decoder, config: TokenizerConfig, z_BTHWC: Tensor, step: int
) -> Iterator[Tensor]:
    """Yield decoded frames by chunks of latent frames, decoded with one frame of look-ahead."""
    stream, length = _OverlapStream(config.time_rule), z_BTHWC.shape[1]
    for start, end in _chunks(length, step):
        ahead = min(end + 1, length)
        stream.chunk(first=start == 0, last=end == length)
        y = decoder(z_BTHWC[:, start:ahead], stream)
        yield y if ahead == end else y[:, : -config.temporal_factor]


def _chunks(length: int, step: int) -> Iterator[tuple[int, int]]:
    ends = [*range(1, length, step), length]
    return zip([0, *ends], ends, strict=False)


class _OverlapStream(Stream):
    """A stream whose chunks end with a look-ahead latent frame that is not to be remembered.

    Convolutions leave it out of what they keep. The interpolation keeps one latent frame, which
    for the first chunk is the look-ahead frame itself: the reference's accident.
    """

    def chunk(self, *, first: bool, last: bool) -> "_OverlapStream":
        self._ahead = 1
        super().chunk(first=first, last=last)
        return self

    def _remember(self, layer: nn.Module, window: Tensor, keep: int, rows: Rows | None) -> None:
        super()._remember(layer, window[:, : window.shape[1] - self._ahead], keep, rows)

    def interpolate(self, layer: nn.Module, x_BTHWC: Tensor, latent_frame: int) -> Tensor:
        n = latent_frame
        self._ahead *= 2
        if self.first:
            self._tails[layer] = x_BTHWC[:, -n:].clone()
            runs = (x_BTHWC[:, :n], x_BTHWC[:, n:])
            return torch.cat([double(run) for run in runs if run.shape[1]], 1)
        x_BTHWC = torch.cat([self._tails[layer], x_BTHWC], 1)
        self._tails[layer] = x_BTHWC[:, -2 * n : -n].clone()
        return double(x_BTHWC)[:, 2 * n :]
