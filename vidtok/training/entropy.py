"""Entropies of soft assignments to an FSQ codebook, without tokens × codes numbers in memory.

A token z is assigned to code c_j with probability p_j = softmax_j(200 ⟨z, c_j⟩). Training wants
each token sure of its code (low entropy) and all codes in use (high entropy of the mean of p). In
plain form that is a matrix of tokens × codes, several times over: 5 GB each time for one 17×256×256
clip and 8⁶ codes. But the codebook is a product and the scalar product a sum over channels, so
p_j = a_k b_l, where k counts the codes of the first channels, l those of the rest, and a and b are
softmaxes of their own (512 numbers each for 8⁶). Then, exactly:

- The mean of p over tokens is one product of matrices, `aᵀ b / N`.
- A token's entropy is -Σ a_k b_l ln max(a_k b_l, ε). With b sorted, the l for which a_k b_l ≥ ε are
  its first few, how many follows from a binary search, and sums over the first few and over the
  rest are differences of running sums.

ε = 1e-5 is part of the loss: with 8⁶ codes all equally likely, every single p lies below it.
Source: the entropy penalty of MAGVIT-v2, arXiv 2310.05737; temperature and ε are those of the
VidTok release.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from vidtok import ops
from vidtok.training.ranks import mean_over_ranks

_SHARPNESS = 200.0
_FLOOR = 1e-5
_LOG_FLOOR = math.log(_FLOOR)


def fsq_entropy(z: Tensor, levels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the mean of the tokens' entropies and the entropy of their mean, in nats.

    Args:
        z: `[..., C]` unbounded encoder output, of any float type; computed with in float32.
        levels: number of levels of each of the C channels.

    Returns:
        Two float32 scalars: the mean over this rank's tokens of the entropy of each one's
        assignment, and the entropy of the mean assignment over the tokens of all ranks. Both with
        a gradient to z.
    """
    with ops.autocast(z.device):
        split = _split(levels)
        tokens = z.reshape(-1, len(levels)).float()
        first = _log_probabilities(tokens[:, :split], levels[:split])
        rest = _log_probabilities(tokens[:, split:], levels[split:])
        mean = mean_over_ranks(first.exp().T @ rest.exp() / len(tokens))
        # Less the floor, which a sum of 1 multiplies: what lies below it adds no rounding errors.
        excess = (mean.clamp(min=_FLOOR) / _FLOOR).log()
        codebook = -(mean * excess).sum() - _LOG_FLOOR
        return _entropy_of_products(first, rest).mean(), codebook


def _split(levels: tuple[int, ...]) -> int:
    """Return after how many channels to split, so that both sides have few codes."""
    return min(range(len(levels) + 1), key=lambda i: math.prod(levels[:i]) + math.prod(levels[i:]))


def _log_probabilities(z: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Return ln softmax over the codes of some channels: `[N, C]` → `[N, prod(levels)]`."""
    joint = z.new_zeros(len(z), 1)
    for value, level in zip(z.unbind(1), levels, strict=True):
        half = level // 2
        codes = torch.arange(-half, level - half, device=z.device) / half
        channel = torch.log_softmax(_SHARPNESS * value[:, None] * codes, 1)
        joint = (joint[:, :, None] + channel[:, None, :]).flatten(1)
    return joint


def _entropy_of_products(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return -Σ_kl a_k b_l ln max(a_k b_l, ε) of each row: `[N, K]`, `[N, L]` → `[N]`."""
    log_b = log_b.sort(1, descending=True).values
    a, b = log_a.exp(), log_b.exp()
    # How many of the sorted b_l have a_k b_l ≥ ε, for each k.
    above = torch.searchsorted(-log_b.detach(), log_a.detach() - _LOG_FLOOR, right=True)
    mass = pad(b.cumsum(1), (1, 0))
    weighted = pad((b * log_b).cumsum(1), (1, 0))
    mass_above = mass.gather(1, above)
    unclamped = log_a * mass_above + weighted.gather(1, above)
    clamped = _LOG_FLOOR * (mass[:, -1:] - mass_above)
    return -(a * (unclamped + clamped)).sum(1)
