"""Regularizers: terms beside the reconstruction loss, for latents that can be modelled.

FSQ has an entropy term and a commitment term. The first makes the code of each token certain and
spreads tokens over the codebook; the second keeps the encoder's output near the codes. KL has the
divergence of the posterior from a standard normal. Weights and schedule are those of the VidTok
release.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidtok import fsq
from vidtok.training.entropy import fsq_entropy
from vidtok.training.prefixes import shares


@dataclass(frozen=True, slots=True)
class FsqRegularizer:
    """The auxiliary loss of FSQ: w(step)·(token entropy - codebook entropy) + 0.25·commitment."""

    levels: tuple[int, ...]
    """Number of levels of each channel."""
    prefixes: Sequence[Sequence[int]] | None = None
    """Sets of channels whose entropy terms are averaged with the weights of `prefixes.shares`. The
    last set has all channels. None counts all channels once."""
    first_entropy_weight: float = 0.3
    """Weight w of the entropy term at step 0, from which it falls linearly."""
    entropy_weight: float = 0.1
    """Weight w of the entropy term from `annealing_steps` on."""
    annealing_steps: int = 2000
    """Number of batches over which w falls."""
    commitment_weight: float = 0.25
    """Weight of the commitment term."""

    def __call__(self, z: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one batch, a float32 scalar with a gradient to z, and its parts.

        Args:
            z: `[..., C]` unbounded encoder output of any float type; converted to float32.
            step: number of earlier batches.
        """
        z = z.float()
        # Each prefix counts all clips, not those that drew it: a mean of less variance, and ranks
        # need not draw the same numbers.
        sets = self.prefixes or [range(len(self.levels))]
        entropies = [
            fsq_entropy(torch.stack([z[..., c] for c in s], -1), tuple(self.levels[c] for c in s))
            for s in sets
        ]
        weights = shares(len(sets))
        token, codebook = (
            torch.stack([w * term for w, term in zip(weights, terms, strict=True)]).sum()
            for terms in zip(*entropies, strict=True)
        )
        # Unbounded output against bounded codes, as in the release: this also limits outputs for
        # which `tanh` is saturated.
        commitment = (z - fsq.quantize(z, self.levels).detach()).square().mean()
        entropy = self.weight_at(step) * (token - codebook)
        loss = entropy + self.commitment_weight * commitment
        parts = {
            "token_entropy": token.detach(),
            "codebook_entropy": codebook.detach(),
            "commitment": commitment.detach(),
        }
        return loss, parts

    def weight_at(self, step: int) -> float:
        """Return the weight of the entropy term after `step` batches."""
        if step >= self.annealing_steps:
            return self.entropy_weight
        left = 1 - step / self.annealing_steps
        return self.entropy_weight + left * (self.first_entropy_weight - self.entropy_weight)


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return the divergence from N(0, 1), summed over each clip and averaged over the batch.

    Args:
        mean: `[B, ...]` float32.
        logvar: log-variance of the same shape.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(mean)
