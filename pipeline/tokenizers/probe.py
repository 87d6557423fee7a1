"""Proofs on small clips: that a tokenizer takes a length, and that it gives the numbers it gave.

Tokenizers of other packages can cut or fill a clip without a word, and their next version can
compute something else. The clips have 2 by 2 latent cells, or 4 by 4 for the numbers. With eight
pixels per cell, that is 1/256 of the pixels of a 256×256 clip: a full-size autoencoder takes about
a second of a CPU core for a length of 17 frames.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.tokenizers.protocol import VideoTokenizer

VALUES = 64
"""Number of values of a latent that `probe_values` returns."""

_OTHER = "choose another clip.frames or another model"


def probe_values(tokenizer: VideoTokenizer) -> tuple[float, ...]:
    """Return values of the latent of one fixed clip, rounded to six digits.

    Args:
        tokenizer: in float32 on the CPU.
    """
    facts = tokenizer.facts
    latent = tokenizer.encode(clip(facts.lengths.near(5)[-1], 4 * facts.spatial_factor)).latent
    values = latent.flatten()
    chosen = values[torch.linspace(0, len(values) - 1, VALUES).round().long()]
    return tuple(float(f"{value:.6g}") for value in chosen.tolist())


def prove_lengths(tokenizer: VideoTokenizer, name: str, lengths: Iterable[int]) -> None:
    """Require that decoding what T frames encode to gives T frames.

    Args:
        tokenizer: on any device.
        name: name of the tokenizer's model, for errors.
        lengths: lengths T that its facts allow.

    Raises:
        ConfigError: it gives another number of frames, or of latent frames.
    """
    facts = tokenizer.facts
    for frames in sorted(set(lengths)):
        side = 2 * facts.spatial_factor
        encoded = tokenizer.encode(clip(frames, side))
        back = tokenizer.decode(
            encoded.latent if encoded.indices is None else encoded.indices, frames
        )
        shape = tuple(encoded.latent.shape[1:])
        if shape != (wanted := facts.latent_shape(frames, side, side)):
            raise ConfigError(
                f"{name}: {frames}x{side}x{side} gives latents {shape}, not {wanted}; {_OTHER}"
            )
        if back.shape[2] != frames:
            raise ConfigError(f"{name}: {frames} frames are decoded as {back.shape[2]}; {_OTHER}")


def clip(frames: int, side: int) -> Tensor:
    """Return the fixed clip `[1, 3, frames, side, side]` in [-1, 1]."""
    count = 3 * frames * side * side
    waves = torch.sin(torch.arange(count, dtype=torch.float64).square() * 1e-3)
    return waves.float().view(1, 3, frames, side, side)
