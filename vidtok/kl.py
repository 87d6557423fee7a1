"""The KL latent: a normal distribution for each number, from which a clip's latent is drawn.

Source: Kingma and Welling, Auto-Encoding Variational Bayes, arXiv 1312.6114; the limits of the
log-variance are those of the VidTok release. All arithmetic is float32.
"""

import torch
from torch import Tensor


def posterior(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Split encoder output `[..., 2Z]` into mean and log-variance `[..., Z]`, float32.

    The log-variance is clamped to [-30, 20].
    """
    mean, logvar = moments.float().chunk(2, -1)
    return mean, logvar.clamp(-30, 20)


def sample(mean: Tensor, logvar: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw from the posterior; mean, log-variance and result are float32 of one shape.

    A generator draws on its own device, so one on the CPU gives the same sample on every device.
    With None the default generator of the tensors' device draws.
    """
    device = mean.device if generator is None else generator.device
    noise = torch.randn(mean.shape, generator=generator, device=device)
    return mean + torch.exp(0.5 * logvar) * noise.to(mean.device)
