"""A tokenizer as training runs it: from pixels to their reconstruction, with gradients."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidtok import fsq, kl, ops
from vidtok.autoencoder import Tokenizer
from vidtok.layers import ResBlock3d, SpatialBlock, TemporalBlock
from vidtok.reference import lengthen
from vidtok.temporal import Stream
from vidtok.training.regularizers import FsqRegularizer, kl_loss


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What one pass gives; all float32."""

    x: Tensor
    """The clips, `[B, 3, T, H, W]` in [-1, 1]."""
    x_hat: Tensor
    """What the decoder makes of their latents, near [-1, 1]."""
    regularizer: Tensor
    """Scalar: FSQ's auxiliary loss, or the KL divergence."""
    parts: dict[str, Tensor]
    """The regularizer's parts, for the log."""


class TrainedTokenizer(nn.Module):
    """Encodes and decodes clips in train mode, with FSQ's straight-through or KL's sampled latents.

    Args:
        tokenizer: the network; its parameters are trained in place.
        freeze_encoder: leave the encoder as it is, as in the second stage: it then runs without a
            graph, and FSQ's auxiliary loss, which could reach nothing, is not computed.
        autocast: dtype that the convolutions compute in; None: float32. Losses never do.
        recompute: keep only the input of each block for the backward pass, and compute the block
            again there: far less memory for about a third more time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        freeze_encoder: bool = False,
        autocast: torch.dtype | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._freeze_encoder = freeze_encoder
        self._autocast = autocast
        levels = tokenizer.config.fsq_levels
        self._fsq = FsqRegularizer(levels) if levels else None
        tokenizer.encoder.requires_grad_(not freeze_encoder)
        if recompute:
            for block in tokenizer.modules():
                if isinstance(block, SpatialBlock | TemporalBlock | ResBlock3d):
                    block.forward = partial(  # type: ignore[method-assign]
                        checkpoint, block.forward, use_reentrant=False
                    )

    @property
    def last_weight(self) -> Tensor:
        """Weight of the decoder's last layer, at which the adversarial term is balanced."""
        return ops.weight_and_bias(self.tokenizer.decoder.conv_out)[0]

    def forward(self, clips: Tensor, step: int) -> Reconstruction:
        """Reconstruct clips.

        Args:
            clips: uint8 `[B, T, H, W, 3]`.
            step: how many batches came before, for FSQ's schedule.
        """
        config = self.tokenizer.config
        x = clips.float() / 127.5 - 1
        T = x.shape[1]
        padded = lengthen(config, x)
        with ops.autocast(x.device, self._autocast):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._freeze_encoder):
                h = self.tokenizer.encoder(padded, Stream(config.time_rule)).float()
            z, regularizer, parts = self._regularize(h, step)
            y = self.tokenizer.decoder(z, Stream(config.time_rule)).float()
        y = y[:, y.shape[1] - T :]
        return Reconstruction(x.movedim(-1, 1), y.movedim(-1, 1), regularizer, parts)

    def _regularize(self, h: Tensor, step: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        if self._fsq is not None:
            z = fsq.quantize(h, self._fsq.levels)
            if self._freeze_encoder:
                return z, h.new_zeros(()), {}
            return z, *self._fsq(h, step)
        mean, logvar = kl.posterior(h)
        loss = kl_loss(mean, logvar)
        return kl.sample(mean, logvar), loss, {"kl": loss.detach()}
