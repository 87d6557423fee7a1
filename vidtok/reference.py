"""How the public reference treats clips that it should refuse, and how it tiles long clips.

Most of this is accidental: it lengthens clips in the middle of a video, and its states near the
first latent frame are stale by one latent frame. It serves comparisons with the reference. For all
else, `Tokenizer` has exact chunks. Source: the VidTok v1.1 release, tiled with overlap as in its
published scripts.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vidtok.coder import Decoder, Encoder
from vidtok.config import TokenizerConfig
from vidtok.temporal import Rows, Stream, double


def copies_in_front(config: TokenizerConfig, num_frames: int) -> int:
    """Return the number of copies of its first frame that the network puts in front of a clip.

    Causal v1.0 prepends f - 1 frames to every length that is not a multiple of f. v1.1 prepends as
    many as make it a multiple. The non-causal network prepends none.
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
    """Return the clip with the copies in front that its network prepends."""
    return repeat_first(x_BTHWC, copies_in_front(config, x_BTHWC.shape[1]))


def encode_tiles(
    encoder: Encoder, config: TokenizerConfig, x_BTHWC: Tensor, chunk_frames: int
) -> Iterator[Tensor]:
    """Yield the encoder's output for chunks: one frame, then `chunk_frames` at a time.

    Every chunk is lengthened separately: the result equals that for the whole clip only if T is 1
    modulo f.
    """
    stream, length = Stream(config.time_rule), x_BTHWC.shape[1]
    for start, end in _chunks(length, chunk_frames):
        stream.chunk(first=start == 0, last=end == length)
        yield encoder(lengthen(config, x_BTHWC[:, start:end]), stream)


def decode_tiles(
    decoder: Decoder, config: TokenizerConfig, z_BTHWC: Tensor, step: int
) -> Iterator[Tensor]:
    """Yield the frames of chunks of latent frames, each decoded with one frame of look-ahead."""
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
    """A stream whose chunks end with a look-ahead latent frame that it must not remember.

    Convolutions do not remember that frame. The interpolation remembers one latent frame, which for
    the first chunk is the look-ahead frame itself: an accident of the reference.
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
