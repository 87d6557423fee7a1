"""FSQ with fewer channels: one column of indices read as several vocabularies, and decoded again.

An order ranks the channels by worth. The first k digits in this order are the prefix of an index: a
number in [0, L₀ ⋯ L₍k−1₎). Of a prefix, the other channels are filled in from the kept ones:

    prefix ─► codes of k channels ─► 3×3×3 neighbourhoods ─► affine map ─► codes of all channels

Maps are fitted to tokens alone (`vidtok.channel_fit`). A network that was trained with prefixes has
its own order and map; a constant code is a map of weight zero.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Integral
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from vidtok import diffusers_folder, fsq
from vidtok.tensor_file import write_tensors

SUFFIX: Final = ".channels.safetensors"
"""End of the name of the file beside the weights, after their stem."""
_KEY: Final = "vidtok_channels"


@dataclass(frozen=True, slots=True, eq=False)
class Fill:
    """An affine map from the codes of kept channels to those of the dropped ones.

    Beyond the border of a clip it sees copies of the nearest cell.
    """

    weight: Tensor
    """Kernel `[dropped, kept, t, h, w]` float32 of a convolution over cells, of odd sides."""
    bias: Tensor
    """Constant `[dropped]` float32."""

    def __call__(self, kept: Tensor) -> Tensor:
        """Return dropped codes `[B, t, h, w, dropped]` float32 of kept ones `[B, t, h, w, kept]`.

        They lie between the levels; rounding them to levels loses quality.
        """
        weight, bias = (x.to(kept.device) for x in (self.weight, self.bias))
        filled = F.conv3d(padded(kept, weight.shape[2:]).movedim(-1, 1), weight, bias)
        return filled.movedim(1, -1).clamp(-1, 1)


@dataclass(frozen=True, slots=True, eq=False)
class ChannelOrder:
    """The channels of an FSQ model by worth, and what fills in those that are dropped.

    Raises:
        ValueError: the fields contradict each other.
    """

    levels: tuple[int, ...]
    """Number of levels of each channel, in the model's own order."""
    order: tuple[int, ...]
    """Channels, the most valuable first."""
    fills: Mapping[int, Fill]
    """Maps by number of kept channels, 1 to C − 1. Numbers without one cannot be decoded."""
    weights: str = ""
    """Digest of the weights that it belongs to, from `weights_digest`. Empty for any weights."""

    def __post_init__(self) -> None:
        _require_order(self.levels, self.order)
        num = len(self.levels)
        for k, fill in self.fills.items():
            shape, sides = tuple(fill.weight.shape), fill.weight.shape[2:]
            if not 0 < k < num or shape[:2] != (num - k, k) or tuple(fill.bias.shape) != (num - k,):
                raise ValueError(f"fill of {k} of {num} channels: weight of shape {shape}")
            if len(sides) != 3 or any(side % 2 == 0 for side in sides):
                raise ValueError(
                    f"fill of {k} channels: weight of shape {shape}: sides must be odd"
                )

    def codebook_size(self, k: int) -> int:
        """Return the number of prefixes of k channels.

        Raises:
            ValueError: k is not a whole number in 1 … C.
        """
        _require_channels(k, len(self.levels))
        return prod(self.levels[channel] for channel in self.order[:k])

    def prefix_indices(self, indices: Tensor, k: int) -> Tensor:
        """Return the prefixes of k channels; see the function of this name."""
        return prefix_indices(indices, self.levels, self.order, k)

    def codes(self, prefixes: Tensor, k: int) -> Tensor:
        """Return codes of all channels `[B, t, h, w, C]` float32 of prefixes `[B, t, h, w]`.

        Channels are in the model's own order. Kept ones are exact.

        Raises:
            ValueError: k is not in 1 … C or has no fill, or a prefix is out of range.
        """
        size = self.codebook_size(k)
        require_range(prefixes, size, f"prefixes of {k} channels have")
        kept = fsq.indices_to_codes(prefixes, tuple(self.levels[c] for c in self.order[:k]))
        return self._natural(kept, k)

    def filled(self, codes: Tensor, k: int) -> Tensor:
        """Return codes `[B, t, h, w, C]` whose dropped channels are filled in from the first k.

        Raises:
            ValueError: k is not in 1 … C or has no fill.
        """
        _require_channels(k, len(self.levels))
        return self._natural(codes[..., list(self.order[:k])].float(), k)

    def _natural(self, kept: Tensor, k: int) -> Tensor:
        num = len(self.levels)
        if k < num and k not in self.fills:
            known = ", ".join(map(str, sorted(self.fills)))
            raise ValueError(f"channels = {k}: must be one of {known} or {num}")
        ranked = kept if k == num else torch.cat([kept, self.fills[k](kept)], -1)
        return ranked[..., [self.order.index(channel) for channel in range(num)]]


def prefix_indices(indices: Tensor, levels: Sequence[int], order: Sequence[int], k: int) -> Tensor:
    """Return the prefixes of code indices: numbers in the mixed radix of the first k channels.

    The first channel in the order is the least significant digit. In the natural order a prefix is
    `indices % (L₀ ⋯ L₍k−1₎)`, and in any order prefixes of fewer channels are remainders of those
    of more.

    Args:
        indices: integers of any shape, in the codebook of `levels`.
        levels: number of levels of each channel.
        order: channels, the most valuable first.
        k: number of channels to keep.

    Returns:
        int32, of the same shape, in [0, product of the levels of the first k channels); int64 if
        that is more than 2³¹.

    Raises:
        ValueError: the order is not one of these channels, k is not in 1 … C, or an index is out of
            range.
    """
    _require_order(levels, order)
    _require_channels(k, len(levels))
    require_range(indices, prod(levels), f"levels {tuple(levels)} have")
    wide = indices.to(torch.int64)
    prefixes, place = torch.zeros_like(wide), 1
    for channel in order[:k]:
        digit = wide // prod(levels[:channel]) % levels[channel]
        prefixes += digit * place
        place *= levels[channel]
    return prefixes if place > 1 << 31 else prefixes.to(torch.int32)


def padded(codes: Tensor, sides: Sequence[int]) -> Tensor:
    """Return `[B, t, h, w, K]` with copies of the border, for a kernel of odd sides."""
    pad = [side // 2 for side in reversed(sides) for _ in range(2)]
    return F.pad(codes.movedim(-1, 1), pad, mode="replicate").movedim(1, -1)


def beside(weights: Path) -> Path:
    """Return the path of the channels file of a file of weights, or of a folder of diffusers'."""
    if weights.is_dir():
        weights = weights / diffusers_folder.WEIGHTS
    return weights.with_name(weights.stem + SUFFIX)


def save(order: ChannelOrder, target: Path) -> None:
    """Write a channels file."""
    tensors: dict[str, Tensor] = {}
    for k, fill in order.fills.items():
        tensors |= {f"fill.{k}.weight": fill.weight, f"fill.{k}.bias": fill.bias}
    about = {"levels": order.levels, "order": order.order, "weights": order.weights}
    tensors = {name: tensor.float().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry alone: several have no fixed order, and equal orders should be equal files.
    write_tensors(tensors, target, {_KEY: json.dumps(about)})


def read(path: Path) -> ChannelOrder:
    """Read a channels file.

    Raises:
        ValueError: the file is damaged, or is not a channels file.
        FileNotFoundError: there is no such file.
    """
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, not a channels file")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _parsed(about, tensors)
    except FileNotFoundError:
        raise
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not a channels file ({error!r}); `python -m vidtok channels` writes one"
        ) from error


def _parsed(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ChannelOrder:
    """Return the order that a file holds. Its values can be anything, and arithmetic hides that."""
    levels, order, weights = tuple(about["levels"]), tuple(about["order"]), about["weights"]
    if not all(type(n) is int for n in (*levels, *order)) or min(levels, default=2) < 2:
        raise ValueError(f"levels = {levels}, order = {order}: must be whole numbers, levels >= 2")
    if not isinstance(weights, str):
        raise ValueError(f"weights = {weights!r}: must be a digest, or an empty text")
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name}: has values that are not finite")
    kept = sorted({int(name.split(".")[1]) for name in tensors})
    fills = {k: Fill(tensors[f"fill.{k}.weight"], tensors[f"fill.{k}.bias"]) for k in kept}
    return ChannelOrder(levels, order, fills, weights)


def _require_order(levels: Sequence[int], order: Sequence[int]) -> None:
    if sorted(order) != list(range(len(levels))):
        raise ValueError(
            f"order = {tuple(order)}: must name each of the channels 0 to {len(levels) - 1} once"
        )


def _require_channels(k: int, num: int) -> None:
    if isinstance(k, bool) or not isinstance(k, Integral):
        raise ValueError(f"channels = {k!r}: must be a whole number, 1 to {num}")
    if not 1 <= k <= num:
        raise ValueError(f"channels = {k}: must be 1 to {num}")


def require_range(indices: Tensor, size: int, who: str) -> None:
    """Refuse what is not integers in [0, size); `who` begins the rule, such as `the model has`.

    Raises:
        ValueError: see above.
    """
    if indices.is_floating_point() or indices.dtype == torch.bool:
        raise ValueError(f"indices of {indices.dtype}: must be integers")
    low, high = (int(v) for v in torch.aminmax(indices.long())) if indices.numel() else (0, 0)
    if low < 0 or high >= size:
        raise ValueError(f"indices from {low} to {high}: {who} 0 to {size - 1}")
