"""A tokenizer in training: from pixels to their reconstruction, with gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidtok import fsq, kl, ops
from vidtok.autoencoder import Tokenizer
from vidtok.layers import ResBlock3d, SpatialBlock, TemporalBlock
from vidtok.reference import lengthen
from vidtok.temporal import Stream
from vidtok.training.prefixes import Prefixes
from vidtok.training.regularizers import FsqRegularizer, kl_loss


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """Result of one pass. All tensors are float32."""

    x: Tensor
    """Clips, `[B, 3, T, H, W]` in [-1, 1]."""
    x_hat: Tensor
    """Reconstruction of the clips, of the same shape, near [-1, 1]."""
    regularizer: Tensor
    """Loss of the regularizer, a scalar: FSQ's auxiliary loss, or the KL divergence."""
    parts: dict[str, Tensor]
    """Parts of the regularizer's loss, for the log."""


class TrainedTokenizer(nn.Module):
    """Encodes and decodes clips in train mode, with FSQ's straight-through or KL's sampled latents.

    Args:
        tokenizer: network whose parameters are trained in place.
        freeze_encoder: whether the encoder stays as it is, as in the second stage. It then runs
            without a graph, and FSQ's auxiliary loss, which has no gradient, is not computed.
        autocast: type that the convolutions compute in. None computes in float32, as losses always
            do.
        nested: numbers of FSQ channels, of which each clip draws one; None keeps all channels.
            Order and first fills are those of `tokenizer.channels`; see `Prefixes`.

    Raises:
        ValueError: `nested` does not fit the tokenizer.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        freeze_encoder: bool = False,
        autocast: torch.dtype | None = None,
        nested: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._freeze_encoder = freeze_encoder
        self._autocast = autocast
        levels = tokenizer.config.fsq_levels
        self.prefixes: Prefixes | None = None
        if nested is not None:
            self.prefixes = Prefixes(levels, nested, tokenizer.channels).to(tokenizer.device)
        counted = self.prefixes.channels if self.prefixes else None
        self._fsq = FsqRegularizer(levels, counted) if levels else None
        tokenizer.encoder.requires_grad_(not freeze_encoder)

    @property
    def blocks(self) -> list[nn.Module]:
        """Blocks with a gradient. The backward pass can compute each again from its input."""
        half = self.tokenizer.decoder if self._freeze_encoder else self.tokenizer
        kinds = SpatialBlock | TemporalBlock | ResBlock3d
        return [block for block in half.modules() if isinstance(block, kinds)]

    @property
    def last_weight(self) -> Tensor:
        """Weight of the decoder's last layer, at which the adversarial term is balanced."""
        return ops.weight_and_bias(self.tokenizer.decoder.conv_out)[0]

    def forward(self, clips: Tensor, step: int) -> Reconstruction:
        """Reconstruct clips.

        Args:
            clips: uint8 `[B, T, H, W, 3]`.
            step: number of earlier batches, for FSQ's schedule.
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
            if self.prefixes is not None:
                z = self.prefixes(z)
            if self._freeze_encoder:
                return z, h.new_zeros(()), {}
            return z, *self._fsq(h, step)
        mean, logvar = kl.posterior(h)
        loss = kl_loss(mean, logvar)
        return kl.sample(mean, logvar), loss, {"kl": loss.detach()}
