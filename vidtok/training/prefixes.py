"""FSQ in training with a random number of channels for each clip, so that prefixes can be decoded.

    codes ─► the first k channels of a clip, k at random ─► the others filled in ─► decoder

The decoder sees what `Tokenizer.decode_indices(…, channels=k)` gives it. For each k, an affine map
from the 3×3×3 neighbourhood of the kept channels fills in the others. It is trained, too.
Source of the idea: nested dropout, arXiv 1402.0915.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidtok import ops
from vidtok.channels import ChannelOrder, Fill, padded

_SHORTENED_ONE_IN: Final = 4
"""One clip in this number is decoded from a part of its channels. Most tokens are decoded with all,
and more shortened clips cost them more quality than prefixes gain."""


class Prefixes(nn.Module):
    """The channels that are kept, in order, and the maps that fill in the others.

    Args:
        levels: number of levels of each channel.
        sizes: numbers of channels to keep.
        known: order and maps to start with. None starts with the natural order and, for each
            dropped channel, the mean of its levels.

    Raises:
        ValueError: as `require_sizes`, or known maps have kernels of several sizes.
    """

    kept: Tensor

    def __init__(
        self, levels: tuple[int, ...], sizes: Sequence[int], known: ChannelOrder | None = None
    ) -> None:
        super().__init__()
        require_sizes(sizes, levels)
        num = len(levels)
        fills = {} if known is None else known.fills
        self._levels = levels
        self.order = tuple(range(num)) if known is None else known.order
        self.sizes = tuple(sizes)
        sides = _sides([fills[k] for k in sizes if k in fills])
        means = torch.tensor([((level - 1) / 2 - level // 2) / (level // 2) for level in levels])
        kept = torch.zeros(len(sizes), num, dtype=torch.bool)
        weight = torch.zeros(len(sizes), num, num, *sides)
        bias = means.repeat(len(sizes), 1)
        for i, k in enumerate(sizes):
            first, rest = self._split(k)
            kept[i, first] = True
            if k in fills:
                weight[i, rest[:, None], first] = fills[k].weight
                bias[i, rest] = fills[k].bias
        self.register_buffer("kept", kept, persistent=False)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    @property
    def channels(self) -> list[tuple[int, ...]]:
        """Channels of each prefix."""
        return [self.order[:k] for k in self.sizes]

    def forward(self, codes: Tensor) -> Tensor:
        """Return codes `[B, t, h, w, C]` float32 with dropped channels filled in.

        torch's generator on the CPU draws the number of kept channels of each clip, with the
        probabilities of `shares`. Checkpoints hold its state, and ranks have different seeds.
        """
        last = len(self.sizes) - 1
        # Numbers from `last` on stand for all channels.
        drawn = torch.randint(max(1, _SHORTENED_ONE_IN * last), (len(codes),))
        return self.filled(codes, drawn.clamp(max=last).tolist())

    def filled(self, codes: Tensor, draws: Sequence[int]) -> Tensor:
        """Return the codes with `sizes[draws[b]]` channels of clip b, and the others filled in.

        All maps get a gradient in each pass, as `data_parallel` requires.
        """
        with ops.autocast(codes.device):
            kept, weight, bias = (
                torch.stack([x[i] for i in draws]) for x in (self.kept, self.weight, self.bias)
            )
            kept = kept[:, None, None, None]
            given = padded(codes * kept, self.weight.shape[-3:]).movedim(-1, 1)
            # The clips are groups of channels of one convolution, each with the map of its draw.
            made = F.conv3d(
                given.flatten(0, 1)[None], weight.flatten(0, 1), bias.flatten(), groups=len(draws)
            )
            made = made[0].view(*bias.shape, *made.shape[2:]).movedim(1, -1).clamp(-1, 1)
            return torch.where(kept, codes, made)

    def get_extra_state(self) -> dict[str, list[int]]:
        """Return what checkpoints hold beside the maps."""
        return {"order": list(self.order), "sizes": list(self.sizes)}

    def set_extra_state(self, state: dict[str, list[int]]) -> None:
        """Refuse a checkpoint whose maps belong to another order, or to other numbers of channels.

        Raises:
            ValueError: see above.
        """
        order, sizes = tuple(state["order"]), tuple(state["sizes"])
        if order != self.order:
            raise ValueError(f"order of channels {order}: this run has {self.order}")
        if sizes != self.sizes:
            raise ValueError(
                f"nested = {list(sizes)} in the checkpoint: this run has {list(self.sizes)}; resume"
                " with the same numbers, or start another run from the weights"
            )

    def channel_order(self, weights: str) -> ChannelOrder:
        """Return order and maps for decoding.

        Args:
            weights: digest of the network's weights.
        """
        fills = {}
        for i, k in enumerate(self.sizes[:-1]):
            first, rest = self._split(k)
            weight = self.weight.detach().cpu()[i, rest[:, None], first]
            fills[k] = Fill(weight, self.bias.detach().cpu()[i, rest])
        return ChannelOrder(self._levels, self.order, fills, weights)

    def _split(self, k: int) -> tuple[Tensor, Tensor]:
        """Return the kept and the dropped channels, in order."""
        order = torch.tensor(self.order)
        return order[:k], order[k:]


def _sides(fills: Sequence[Fill]) -> tuple[int, ...]:
    """Return the sides of the kernels of maps, which are trained as one tensor."""
    found = {tuple(fill.weight.shape[2:]) for fill in fills} or {(3, 3, 3)}
    if len(found) > 1:
        sizes = " and ".join("×".join(map(str, sides)) for sides in sorted(found))
        raise ValueError(
            f"the channels file has maps with kernels of {sizes}, and training needs one size; fit"
            " it again with `python -m vidtok channels`"
        )
    return found.pop()


def shares(num: int) -> list[float]:
    """Return the parts of the clips that keep each of `num` numbers of channels, in order; sum 1.

    Three quarters of the clips keep all channels. The shorter prefixes share the rest evenly.
    """
    if num == 1:
        return [1.0]
    shortened = 1 / _SHORTENED_ONE_IN
    return [shortened / (num - 1)] * (num - 1) + [1 - shortened]


def require_sizes(sizes: Sequence[int], levels: Sequence[int]) -> None:
    """Refuse sizes of prefixes that a network cannot be trained with.

    Raises:
        ValueError: the network is not FSQ, or the sizes do not ascend to all channels.
    """
    if not levels:
        raise ValueError("only FSQ tokenizers have prefixes; leave the setting out")
    if sorted({*sizes, len(levels)}) != list(sizes) or sizes[0] < 1:
        raise ValueError(
            f"must be in ascending order and end with {len(levels)}, the number of all channels"
        )
