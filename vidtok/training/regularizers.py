"""What training adds to the reconstruction loss so that latents are worth modelling.

FSQ: an entropy term that makes each token sure of its code and spreads tokens over the codebook,
and a commitment term that keeps the encoder's output near the codes. KL: the divergence of the
posterior from a standard normal. Weights and schedule are those of the VidTok release.
"""

from dataclasses import dataclass

from torch import Tensor

from vidtok import fsq
from vidtok.training.entropy import fsq_entropy


@dataclass(frozen=True, slots=True)
class FsqRegularizer:
    """The auxiliary loss of FSQ: w(step)·(token entropy - codebook entropy) + 0.25·commitment."""

    levels: tuple[int, ...]
    first_entropy_weight: float = 0.3
    """w at step 0; from there it falls linearly."""
    entropy_weight: float = 0.1
    """w from `annealing_steps` on."""
    annealing_steps: int = 2000
    """In batches."""
    commitment_weight: float = 0.25

    def __call__(self, z: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one batch, a float32 scalar with a gradient to z, and its parts.

        Args:
            z: `[..., C]` unbounded encoder output, of any float type; computed with in float32.
            step: how many batches came before this one.
        """
        z = z.float()
        token, codebook = fsq_entropy(z, self.levels)
        # Unbounded output against bounded codes, as released: it also holds back outputs that
        # `tanh` has long saturated.
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
        """Return the weight of the entropy term for the batch that `step` batches came before."""
        if step >= self.annealing_steps:
            return self.entropy_weight
        left = 1 - step / self.annealing_steps
        return self.entropy_weight + left * (self.first_entropy_weight - self.entropy_weight)


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return the divergence from N(0, 1), summed over a clip and averaged over the batch.

    Args:
        mean: `[B, ...]` float32.
        logvar: log-variance of the same shape.
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(mean)
