"""The losses of autoencoder and discriminator.

    autoencoder:    Σ (|x - x̂| + perceptual) / e^s + s, per frame, + regularizer + λ·adversarial
    discriminator:  hinge + 0.005·LeCam

s (`logvar`), the logarithm of a likelihood's scale, is learned with the autoencoder. λ makes the
gradient of the adversarial term at the decoder's last layer a fixed fraction of the first term's.
For this each step needs two gradients of both terms; networks that judge pictures compute one.
Source: VidTok, arXiv 2412.13061; weights are those of the release.
Everything is computed in float32, whatever the network computes in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok import ops
from vidtok.training.adversarial import LeCam, adaptive_weight, generator_loss, hinge_loss
from vidtok.training.discriminator import PatchDiscriminator
from vidtok.training.once import with_gradient_once

Pixel = Literal["l1", "l2", "log_l2"]

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Distance of pictures: two `[N, 3, H, W]` in [-1, 1] to `[N]`, with gradient to the second."""


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """Weights of the terms, all without unit."""

    pixel: Pixel = "l1"
    """Distance of pixel values: `l1` absolute difference, `l2` squared difference, `log_l2` the
    logarithm of each frame's mean squared difference, see `pixel_distance`."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual term. 0 omits it."""
    regularizer_weight: float = 1.0
    """Weight of the regularizer: 1 for FSQ, 1e-6 for KL, whose divergence sums over the clip."""
    discriminator: Literal["2d", "3d"] | None = "2d"
    """Discriminator of single frames (`2d`) or of clips (`3d`). None omits the adversarial term."""
    discriminator_start: int = 10_001
    """First batch at which the discriminator learns and its term counts. The release has 20,001 but
    counts two steps per batch."""
    adversarial_weight: float = 0.2
    """Gradient of the adversarial term at the decoder's last layer, as fraction of the first's."""
    lecam_weight: float = 0.005
    """Weight of the LeCam term of the discriminator."""


class Objective(nn.Module):
    """The losses and their state: `logvar`, the discriminator, LeCam's means.

    Names in the state dict are those of the release, plus `lecam.real` and `lecam.fake`. The
    perceptual distance belongs to the caller: it is not part of the state and does not move to a
    device with the objective.

    A step counts batches; both losses of a batch take the same step. Before `discriminator_start`
    the discriminator is not computed. So its BatchNorm statistics and LeCam's means start there,
    while in the release they follow a random network until then.
    """

    perceptual: Perceptual | None

    def __init__(self, config: ObjectiveConfig, perceptual: Perceptual | None) -> None:
        """Create an objective in train mode.

        Raises:
            ValueError: the perceptual term has a weight but no distance.
        """
        super().__init__()
        if config.perceptual_weight > 0 and perceptual is None:
            raise ValueError(
                f"perceptual_weight = {config.perceptual_weight} without a perceptual distance: "
                "give one, or set the weight to 0"
            )
        self.config = config
        # nn.Module would put the frozen weights of a network into every checkpoint.
        object.__setattr__(self, "perceptual", perceptual)
        self.logvar = nn.Parameter(torch.zeros(()))
        if config.discriminator is not None:
            self.discriminator = PatchDiscriminator(config.discriminator)
            self.lecam = LeCam()

    def adversarial_at(self, step: int) -> bool:
        """Return whether the discriminator takes part after `step` batches."""
        return self.config.discriminator is not None and step >= self.config.discriminator_start

    def autoencoder_loss(
        self,
        x: Tensor,
        x_hat: Tensor,
        regularizer_loss: Tensor,
        last_weight: Tensor | None,
        step: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the autoencoder's loss. Its gradient does not reach the discriminator's weights.

        Args:
            x: clips `[B, 3, T, H, W]` in [-1, 1].
            x_hat: their reconstructions, of the same shape.
            regularizer_loss: scalar.
            last_weight: weight of the decoder's last layer. None omits the adversarial term, for
                validation without gradients.
            step: number of earlier batches.

        Returns:
            A float32 scalar, and its parts for the log.
        """
        config = self.config
        with ops.autocast(x.device):
            x, x_hat = x.float(), x_hat.float()
            distance = pixel = pixel_distance(config.pixel, x, x_hat)
            log = {"pixel": pixel}
            if self.perceptual is not None and config.perceptual_weight > 0:
                perceptual = with_gradient_once(partial(self._perceptual_distance, x), x_hat)
                distance = pixel + config.perceptual_weight * perceptual
                log["perceptual"] = perceptual
            # Sums over the values of a frame; those above are means.
            values_per_frame = x[0, :, 0].numel()
            nll = values_per_frame * (distance / self.logvar.exp() + self.logvar)
            loss = nll + config.regularizer_weight * regularizer_loss
            log |= {"nll": nll, "logvar": self.logvar.clone(), "regularizer": regularizer_loss}
            if last_weight is not None and self.adversarial_at(step):
                adversarial = with_gradient_once(self._adversarial_by_frozen, x_hat)
                weight = config.adversarial_weight * adaptive_weight(nll, adversarial, last_weight)
                loss = loss + weight * adversarial
                log |= {"adversarial": adversarial, "adaptive_weight": weight}
        return loss, {name: value.detach() for name, value in (log | {"loss": loss}).items()}

    def discriminator_loss(
        self, x: Tensor, x_hat: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the discriminator's loss. Its gradient does not reach the autoencoder.

        Args:
            x: clips `[B, 3, T, H, W]` in [-1, 1].
            x_hat: their reconstructions, of the same shape.
            step: number of earlier batches.

        Returns:
            A float32 scalar, and its parts for the log. If the discriminator does not take part, a
            zero whose backward pass reaches no weight, and no parts.
        """
        if not self.adversarial_at(step):
            return torch.zeros((), device=x.device, requires_grad=True), {}
        with ops.autocast(x.device):
            # Two passes: with real and fake in one batch, BatchNorm would reveal which is which.
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

    def _perceptual_distance(self, x: Tensor, x_hat: Tensor) -> Tensor:
        assert self.perceptual is not None
        return self.perceptual(_frames(x), _frames(x_hat)).mean()

    def _adversarial_by_frozen(self, x_hat: Tensor) -> Tensor:
        """Return the adversarial term with a gradient to the pictures and none to the weights."""
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        pictures = self._judgeable(x_hat)
        return generator_loss(torch.func.functional_call(self.discriminator, frozen, pictures))

    def _judgeable(self, clips: Tensor) -> Tensor:
        return _frames(clips) if self.config.discriminator == "2d" else clips


_TYPICAL_ERROR = 1e-2
"""Mean squared difference at 26 dB, at which `log_l2` has the gradient of `l2`."""
_SMALL_ERROR = 1e-4
"""Mean squared difference at 46 dB, far below which `log_l2` is proportional to `l2`."""


def pixel_distance(kind: Pixel, x: Tensor, x_hat: Tensor) -> Tensor:
    """Return the distance of pixel values, a float32 scalar.

    `log_l2` is `1e-2 ln(1 + e / 1e-4)`, averaged over frames, where e is a frame's mean squared
    difference. A decibel then counts the same in each frame, as in the mean PSNR. With `l2`,
    frames of fine texture have nearly all of the gradient.

    Args:
        kind: the distance.
        x: float32 clips `[B, 3, T, H, W]` in [-1, 1].
        x_hat: their reconstructions, of the same shape.
    """
    if kind == "l1":
        return F.l1_loss(x_hat, x)
    if kind == "l2":
        return F.mse_loss(x_hat, x)
    errors = (x_hat - x).square().mean((1, 3, 4))
    return _TYPICAL_ERROR * (errors / _SMALL_ERROR).log1p().mean()


def _frames(clips: Tensor) -> Tensor:
    """Return the frames of clips `[B, 3, T, H, W]` as pictures `[B·T, 3, H, W]`."""
    return clips.transpose(1, 2).flatten(0, 1)
