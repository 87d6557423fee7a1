"""The adversarial terms of autoencoder and discriminator.

Sources: hinge loss, arXiv 1705.02894; non-saturating generator loss, arXiv 1406.2661; LeCam
regularization, arXiv 2104.03310; adaptive weight, arXiv 2012.09841, equation 7. Constants are those
of the VidTok release.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok.training.ranks import mean_over_ranks

_LECAM_DECAY = 0.999


def generator_loss(logits: Tensor) -> Tensor:
    """Return the mean of softplus(-mean logit) of each picture or clip; logits `[N, 1, ...]`."""
    return F.softplus(-logits.flatten(1).mean(1)).mean()


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss: 0 if real logits are above 1 and others below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_weight: Tensor) -> Tensor:
    """Return the factor that gives one loss a gradient as large as the other's; no gradient.

    Args:
        reconstruction: scalar loss.
        adversarial: scalar loss, to be scaled.
        last_weight: weight of the decoder's last layer, where gradients are compared.

    Returns:
        The ratio of the norms of the gradients, at most 1e4.
    """
    norm, adversarial_norm = (
        torch.linalg.vector_norm(torch.autograd.grad(loss, last_weight, retain_graph=True)[0])
        for loss in (reconstruction, adversarial)
    )
    ratio: Tensor = norm / (adversarial_norm + 1e-4)
    return ratio.clamp(0, 1e4)


class LeCam(nn.Module):
    """Penalty on the distance of logits from the running mean of the other side's logits.

    The running means are part of the state, so that a resumed run continues with them. They start
    at 0, are means over all ranks, and change in train mode only.
    """

    real: Tensor
    fake: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Return the scalar penalty. In train mode, update the means with the logits first."""
        if self.training:
            means = mean_over_ranks(torch.stack([real.detach().mean(), fake.detach().mean()]))
            self.real.lerp_(means[0], 1 - _LECAM_DECAY)
            self.fake.lerp_(means[1], 1 - _LECAM_DECAY)
        return F.relu(real - self.fake).square().mean() + F.relu(self.real - fake).square().mean()
