"""Entropies of soft assignments to an FSQ codebook, without a matrix of tokens × codes.

A token z is assigned to code c_j with probability p_j = softmax_j(200 ⟨z, c_j⟩). Training aims at a
certain code for each token (low entropy) and at use of all codes (high entropy of the mean of p).
The plain form needs several matrices of tokens × codes: 5 GB each for one clip of 17×256×256 pixels
and 8⁶ codes. But the codebook is a product, and the scalar product is a sum over channels. So
p_j = a_k b_l, where k counts the codes of the first channels and l those of the rest. a and b are
two softmaxes, of 512 numbers each for 8⁶ codes. Then, exactly:

- The mean of p over tokens is one product of matrices, `aᵀ b / N`.
- The entropy of a token is -Σ a_k b_l ln max(a_k b_l, ε). With b sorted, a_k b_l ≥ ε holds for the
  first few l. A binary search gives their number. Differences of running sums give the sums over
  these l and over the rest.

ε = 1e-5 is part of the loss: if all 8⁶ codes are equally likely, every p is smaller.
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
        z: `[..., C]` unbounded encoder output of any float type; converted to float32.
        levels: number of levels of each of the C channels.

    Returns:
        Two float32 scalars with a gradient to z: the mean entropy of the assignments of this rank's
        tokens, and the entropy of the mean assignment over the tokens of all ranks.
    """
    with ops.autocast(z.device):
        split = _split(levels)
        tokens = z.reshape(-1, len(levels)).float()
        first = _log_probabilities(tokens[:, :split], levels[:split])
        rest = _log_probabilities(tokens[:, split:], levels[split:])
        mean = mean_over_ranks(first.exp().T @ rest.exp() / len(tokens))
        # Logarithms relative to the floor: probabilities below it then add no rounding errors.
        excess = (mean.clamp(min=_FLOOR) / _FLOOR).log()
        codebook = -(mean * excess).sum() - _LOG_FLOOR
        return _entropy_of_products(first, rest).mean(), codebook


def _split(levels: tuple[int, ...]) -> int:
    """Return the number of channels before the split that leaves few codes on both sides."""
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
    # Number of the sorted b_l with a_k b_l ≥ ε, for each k.
    above = torch.searchsorted(-log_b.detach(), log_a.detach() - _LOG_FLOOR, right=True)
    mass = pad(b.cumsum(1), (1, 0))
    weighted = pad((b * log_b).cumsum(1), (1, 0))
    mass_above = mass.gather(1, above)
    unclamped = log_a * mass_above + weighted.gather(1, above)
    clamped = _LOG_FLOOR * (mass[:, -1:] - mass_above)
    return -(a * (unclamped + clamped)).sum(1)
