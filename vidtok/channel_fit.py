"""The order of FSQ channels by worth, and the fills of dropped ones, from tokens alone.

    clips of indices ─► second moments of 3×3×3 neighbourhoods ─► ridge regression for any channels
    clips of indices ─► decoded without a channel, against with all ─► which channel is worth least

The moments of all channels contain those of each subset, so the clips are read once, and memory
does not grow with their number.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Final

import torch
from torch import Tensor

from vidtok import fsq
from vidtok.autoencoder import Tokenizer
from vidtok.channels import ChannelOrder, Fill, padded, require_range
from vidtok.digest import weights_digest

_SIDE: Final = 3
_RIDGE: Final = 1e-3
"""Weight of the penalty, per cell. Codes are in [-1, 1]."""
_JUDGED: Final = 8
"""Maximum number of clips that are decoded to judge a channel, evenly spread."""
_CROP: Final = (5, 8, 8)
"""Latent frames, height and width of the middle of a clip that is decoded. It is small because C
channels take C · (C + 1) / 2 - 1 rounds."""


class Moments:
    """Second moments of the codes in the neighbourhood of a cell, in float64.

    Args:
        levels: number of levels of each channel.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        self.levels = levels
        self.cells = 0
        size = len(levels) * _SIDE**3 + 1
        self._gram = torch.zeros(size, size, dtype=torch.float64)

    def add(self, indices: Tensor) -> None:
        """Add the cells of clips `[N, t, h, w]`, one latent frame of a clip at a time."""
        for clip in indices[:, None]:
            codes = padded(fsq.indices_to_codes(clip, self.levels).double(), (_SIDE,) * 3)
            for frames in codes[0].unfold(0, _SIDE, 1):  # [h, w, C, 3]
                around = frames.unfold(0, _SIDE, 1).unfold(1, _SIDE, 1)  # [h, w, C, 3, 3, 3]
                x = around.flatten(3).flatten(0, 1).flatten(1)
                x = torch.cat([x, x.new_ones(len(x), 1)], 1)
                self._gram += x.T @ x
                self.cells += len(x)

    def fill(self, kept: Sequence[int], dropped: Sequence[int]) -> Fill:
        """Return the map from some channels to others with the least squared error and penalty."""
        volume = _SIDE**3
        inputs = [c * volume + n for c, n in product(kept, range(volume))]
        targets = [c * volume + volume // 2 for c in dropped]
        used = torch.tensor([*inputs, len(self._gram) - 1])
        penalty = torch.full((len(used),), _RIDGE * self.cells, dtype=torch.float64)
        penalty[-1] = 0  # not of the constant
        gram = self._gram[used][:, used] + penalty.diag()
        solved = torch.linalg.solve(gram, self._gram[used][:, targets]).T.float()
        weight = solved[:, :-1].reshape(len(dropped), len(kept), *(_SIDE,) * 3)
        return Fill(weight.contiguous(), solved[:, -1].contiguous())


@torch.no_grad()
def fit(model: Tokenizer, clips: Sequence[Tensor]) -> ChannelOrder:
    """Return the order of a model's channels and the fills, from tokens alone.

    One channel after the other is dropped: the one without which the decoded clips, with it filled
    in from the others that are left, are nearest to those of all channels (PSNR).

    Args:
        model: an FSQ model.
        clips: code indices `[t, h, w]` of whole clips, of any shapes.

    Raises:
        ValueError: the model is not FSQ, there is no clip, or an index is out of range.
    """
    require_fsq(model)
    levels = model.config.fsq_levels
    if not clips:
        raise ValueError("no clips to fit an order of channels to")
    moments = Moments(levels)
    for clip in clips:
        require_range(clip, math.prod(levels), f"{model.config.name} has")
        moments.add(clip[None])
    codes, whole = _judged(model, clips)
    kept, dropped = list(range(len(levels))), list[int]()

    def without(channel: int) -> float:
        rest = [c for c in kept if c != channel]
        gone = [channel, *dropped]
        order = ChannelOrder(levels, (*rest, *gone), {len(rest): moments.fill(rest, gone)})
        return _nearness(model, [order.filled(clip, len(rest)) for clip in codes], whole)

    while len(kept) > 1:
        least = max(kept, key=without)
        kept.remove(least)
        dropped.insert(0, least)
    order = (*kept, *dropped)
    fills = {k: moments.fill(order[:k], order[k:]) for k in range(1, len(order))}
    return ChannelOrder(levels, order, fills, weights_digest(model.state_dict()))


@torch.no_grad()
def fidelity(model: Tokenizer, order: ChannelOrder, clips: Sequence[Tensor], k: int) -> float:
    """Return the PSNR in dB of k channels to all channels, of the middles of some clips."""
    codes, whole = _judged(model, clips)
    return _nearness(model, [order.filled(clip, k) for clip in codes], whole)


def require_fsq(model: Tokenizer) -> None:
    """Refuse a model without FSQ channels.

    Raises:
        ValueError: see above.
    """
    if not model.config.fsq_levels:
        name = model.config.name
        raise ValueError(f"{name} is a KL tokenizer and has no code indices; give an FSQ model")


def _judged(model: Tokenizer, clips: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the codes `[1, t, h, w, C]` of the middles of some clips, and their frames."""
    num = min(_JUDGED, len(clips))
    middles = [_middle(clips[n * len(clips) // num]) for n in range(num)]
    codes = [fsq.indices_to_codes(clip[None], model.config.fsq_levels) for clip in middles]
    return codes, [_frames(model, each) for each in codes]


def _nearness(model: Tokenizer, codes: Sequence[Tensor], frames: Sequence[Tensor]) -> float:
    """Return the PSNR in dB of decoded codes to frames, of the squared error of all; at most 100.

    The mean of PSNRs would let clips that do not need a channel outvote one that does.
    """
    errors = [
        ((_frames(model, clip) - other) ** 2).mean().item() / 4
        for clip, other in zip(codes, frames, strict=True)
    ]
    return -10 * math.log10(max(sum(errors) / len(errors), 1e-10))


def _frames(model: Tokenizer, codes: Tensor) -> Tensor:
    return model.decode(codes.movedim(-1, 1).contiguous()).float().clamp(-1, 1)


def _middle(clip: Tensor) -> Tensor:
    for axis, most in enumerate(_CROP):
        size = clip.shape[axis]
        least = min(size, most)
        clip = clip.narrow(axis, (size - least) // 2 if axis else 0, least)
    return clip
