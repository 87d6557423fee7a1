"""What the autoencoder and the discriminator are trained to minimise.

    autoencoder:    Σ (|x - x̂| + perceptual) / e^s + s, per frame, + regularizer + λ·adversarial
    discriminator:  hinge + 0.005·LeCam

s (`logvar`) is learned with the autoencoder: the logarithm of a likelihood's scale. λ makes the
adversarial term pull at the decoder's last layer with a fixed share of the strength of the first
term. Source: VidTok, arXiv 2412.13061; weights are those of the release.
Everything is computed in float32, whatever the network computes in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok import ops
from vidtok.training.adversarial import LeCam, adaptive_weight, generator_loss, hinge_loss
from vidtok.training.discriminator import PatchDiscriminator

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Distance of pictures: `[N, 3, H, W]` twice, in [-1, 1], to `[N]`; with gradient to the second."""


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """The weights of the terms; all scalars without unit."""

    pixel: Literal["l1", "l2"] = "l1"
    """Distance of single values: absolute or squared difference."""
    perceptual_weight: float = 1.0
    """0: no perceptual term."""
    regularizer_weight: float = 1.0
    """1 for FSQ's auxiliary loss, 1e-6 for the KL divergence, which is a sum over the clip."""
    discriminator: Literal["2d", "3d"] | None = "2d"
    """Judges single frames, or clips; None: no adversarial term."""
    discriminator_start: int = 10_001
    """First step, in batches, at which the discriminator learns and is heard. The release says
    20,001, but counts two steps per batch."""
    adversarial_weight: float = 0.2
    """Pull of the adversarial term at the decoder's last layer, relative to the first term's."""
    lecam_weight: float = 0.005


class Objective(nn.Module):
    """Holds what the losses learn or remember: `logvar`, the discriminator, LeCam's means.

    Names in the state dict are those of the release, plus `lecam.real` and `lecam.fake`. The
    perceptual distance is no part of the state and is not moved along: it belongs to the caller.

    A step counts batches; both losses of a batch get the same one. Before
    `discriminator_start` nothing of the discriminator is computed, so its BatchNorm statistics
    and LeCam's means begin there, where the release has let them follow a random network.
    """

    perceptual: Perceptual | None

    def __init__(self, config: ObjectiveConfig, perceptual: Perceptual | None) -> None:
        """Make an objective in train mode.

        Raises:
            ValueError: the perceptual term has a weight and no distance.
        """
        super().__init__()
        if config.perceptual_weight > 0 and perceptual is None:
            raise ValueError(
                f"perceptual_weight = {config.perceptual_weight} without a perceptual distance: "
                "give one, or set the weight to 0"
            )
        self.config = config
        # Past nn.Module, which would put a network's frozen weights into every checkpoint.
        object.__setattr__(self, "perceptual", perceptual)
        self.logvar = nn.Parameter(torch.zeros(()))
        if config.discriminator is not None:
            self.discriminator = PatchDiscriminator(config.discriminator)
            self.lecam = LeCam()

    def adversarial_at(self, step: int) -> bool:
        """Return whether the discriminator takes part in the batch that `step` batches precede."""
        return self.config.discriminator is not None and step >= self.config.discriminator_start

    def autoencoder_loss(
        self,
        x: Tensor,
        x_hat: Tensor,
        regularizer_loss: Tensor,
        last_weight: Tensor | None,
        step: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the autoencoder's loss; its gradient does not reach the discriminator's weights.

        Args:
            x: clips `[B, 3, T, H, W]` in [-1, 1].
            x_hat: their reconstructions, of the same shape.
            regularizer_loss: scalar.
            last_weight: weight of the decoder's last layer. None leaves the adversarial term out:
                for validation, where there are no gradients to balance.
            step: how many batches came before this one.

        Returns:
            A float32 scalar, and its parts for the log.
        """
        config = self.config
        with ops.autocast(x.device):
            x, x_hat = x.float(), x_hat.float()
            difference = F.l1_loss if config.pixel == "l1" else F.mse_loss
            distance = pixel = difference(x_hat, x)
            log = {"pixel": pixel}
            if self.perceptual is not None and config.perceptual_weight > 0:
                perceptual = self.perceptual(_frames(x), _frames(x_hat)).mean()
                distance = pixel + config.perceptual_weight * perceptual
                log["perceptual"] = perceptual
            # Sums per frame of values, where those above are means.
            values_per_frame = x[0, :, 0].numel()
            nll = values_per_frame * (distance / self.logvar.exp() + self.logvar)
            loss = nll + config.regularizer_weight * regularizer_loss
            log |= {"nll": nll, "logvar": self.logvar.clone(), "regularizer": regularizer_loss}
            if last_weight is not None and self.adversarial_at(step):
                adversarial = generator_loss(self._judged_by_frozen(x_hat))
                weight = config.adversarial_weight * adaptive_weight(nll, adversarial, last_weight)
                loss = loss + weight * adversarial
                log |= {"adversarial": adversarial, "adaptive_weight": weight}
        return loss, {name: value.detach() for name, value in (log | {"loss": loss}).items()}

    def discriminator_loss(
        self, x: Tensor, x_hat: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the discriminator's loss; its gradient does not reach the autoencoder.

        Args:
            x: clips `[B, 3, T, H, W]` in [-1, 1].
            x_hat: their reconstructions, of the same shape.
            step: how many batches came before this one.

        Returns:
            A float32 scalar, and its parts for the log. Where the discriminator takes no part, a
            zero whose backward pass reaches no weight, and no parts.
        """
        if not self.adversarial_at(step):
            return torch.zeros((), device=x.device, requires_grad=True), {}
        with ops.autocast(x.device):
            # Two passes: BatchNorm must not see real and fake in one batch, as it could then tell
            # each by the other.
            real = self.discriminator(self._judgeable(x.detach().float()))
            fake = self.discriminator(self._judgeable(x_hat.detach().float()))
            hinge = hinge_loss(real, fake)
            lecam = self.lecam(real, fake)
            loss = hinge + self.config.lecam_weight * lecam
        log = {
            "discriminator_loss": loss,
            "hinge": hinge,
            "lecam": lecam,
            "real_logit": real.mean(),
            "fake_logit": fake.mean(),
        }
        return loss, {name: value.detach() for name, value in log.items()}

    def _judged_by_frozen(self, x_hat: Tensor) -> Tensor:
        """Return logits whose gradient reaches the pictures, and is not computed for weights."""
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        logits: Tensor = torch.func.functional_call(
            self.discriminator, frozen, self._judgeable(x_hat)
        )
        return logits

    def _judgeable(self, clips: Tensor) -> Tensor:
        return _frames(clips) if self.config.discriminator == "2d" else clips


def _frames(clips: Tensor) -> Tensor:
    """Return the frames of clips `[B, 3, T, H, W]` as pictures `[B·T, 3, H, W]`."""
    return clips.transpose(1, 2).flatten(0, 1)
