"""Bits that a tokenizer spends on a clip, per pixel of one frame.

A pixel is one position of one frame with its three colours, as codecs count: raw 8-bit RGB has 24
bits per pixel.
"""

import math

from vidtok.config import TokenizerConfig


def bits_per_cell(config: TokenizerConfig, latent_bits: int = 16) -> float:
    """Return the number of bits of one latent cell, stored without compression.

    FSQ: log2 of the codebook's size. KL: `latent_bits`, the width of the stored type, per channel.
    For KL this is a cost of storage, because KL latents serve generators and not compression.
    """
    if config.codebook_size is not None:
        return math.log2(config.codebook_size)
    return float(config.z_channels * latent_bits)


def bits_per_pixel(
    config: TokenizerConfig, frames: int, height: int, width: int, latent_bits: int = 16
) -> float:
    """Return the bits per pixel of a clip whose latent cells are stored without compression.

    `latent_bits` is the width of one stored number of a KL latent. FSQ ignores it.

    Raises:
        ValueError: the network does not take such a clip.
    """
    cells = _cells_per_pixel(config, frames, height, width)
    return cells * bits_per_cell(config, latent_bits)


def entropy_coded_bits_per_pixel(
    config: TokenizerConfig, frames: int, height: int, width: int, entropy_bits: float
) -> float:
    """Return the bits per pixel after an ideal entropy coder for code indices.

    `entropy_bits` is the cost of one code index. Use `channel_bound_bits` of `CodebookUse.summary`:
    the cost if each channel is coded separately, with a table of a few dozen entries in all. The
    summary's `entropy_bits` needs a table with one entry per code, which is larger than the clips,
    and is too small with few tokens.

    Raises:
        ValueError: the network does not take such a clip, or it is not FSQ.
    """
    if config.codebook_size is None:
        raise ValueError(f"{config.name}: a KL latent has no code indices to count")
    return _cells_per_pixel(config, frames, height, width) * entropy_bits


def _cells_per_pixel(config: TokenizerConfig, frames: int, height: int, width: int) -> float:
    _, t, h, w = config.latent_shape(frames, height, width)
    return t * h * w / (frames * height * width)
