"""Bits of a clip's tokens or latents under a lossless adaptive coder.

The coder is an arithmetic coder with adaptive models, one per channel. It starts again with
every clip and needs no table beside the clip. A model gives the next symbol the probability
(n + 1/2) / (N + L/2) after N symbols of L kinds, n of them equal to it (Krichevsky and Trofimov,
IEEE Trans. Inf. Theory 27, 1981). The length of this code is known without running the coder, and
an arithmetic coder adds at most two bits to it.

Each channel takes the shortest of three codes, and two bits say which:

- all symbols equally probable
- one model for the channel
- one model for each symbol at the same position of the previous latent frame
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MOST_CONTEXTS = 256
"""Number of kinds of symbols up to which a channel can have a model for each of them."""


def coded_bits(symbols: Tensor, sizes: Sequence[int]) -> int:
    """Return the length of a clip's code in whole bits.

    A short clip pays for what the models learn. So the length is that of a code, and not too small
    for few symbols, as an estimated entropy is. It exceeds the fixed length by the bits of the
    choice at most.

    Args:
        symbols: integers `[C, T, H, W]`.
        sizes: number of kinds of symbols of each channel. Its symbols are 0 to size - 1.
    """
    shortest = (
        min(_lengths(channel.long().cpu(), size))
        for channel, size in zip(symbols, sizes, strict=True)
    )
    return math.ceil(math.fsum(shortest) + 2 * len(sizes))


def code_digits(indices: Tensor, levels: Sequence[int]) -> Tensor:
    """Return the levels `[C, ...]` of each channel of code indices `[...]`, as int64."""
    digits, rest = [], indices.long()
    for level in levels:
        digits.append(rest % level)
        rest = rest // level
    return torch.stack(digits)


def value_bytes(latent: Tensor) -> Tensor:
    """Return the low and high byte of float16 latents `[C, ...]`, as uint8 `[2C, ...]`."""
    values = latent.to("cpu", torch.float16).contiguous()
    halves = values.view(torch.uint8).reshape(*values.shape, 2)
    return halves.movedim(-1, 1).flatten(0, 1)


def _lengths(symbols: Tensor, size: int) -> list[float]:
    """Return the lengths of the codes of one channel `[T, H, W]` in bits."""
    lengths = [symbols.numel() * math.log2(size), _adaptive(symbols.flatten(), size)]
    if size <= _MOST_CONTEXTS:
        # The first latent frame has none before it, which is a context of its own.
        before = torch.cat([torch.full_like(symbols[:1], size), symbols[:-1]])
        pairs = (before * size + symbols).flatten()
        lengths.append(_adaptive(pairs, (size + 1) * size, size))
    return lengths


def _adaptive(symbols: Tensor, kinds: int, size: int | None = None) -> float:
    """Return the length of an adaptive code, with a model for every `size` kinds of symbols."""
    counts = torch.bincount(symbols, minlength=kinds).view(-1, size or kinds).double()
    half, many = torch.tensor([0.5, counts.shape[1] / 2], dtype=torch.float64)
    models = torch.lgamma(counts.sum(1) + many) - torch.lgamma(many)
    hits = torch.lgamma(counts + half) - torch.lgamma(half)
    return float(models.sum() - hits.sum()) / math.log(2)
