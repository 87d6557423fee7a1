"""Bits that a tokenizer spends on a clip, per pixel of one frame.

A pixel is one position of one frame, all three colours together, as codecs count: raw 8-bit RGB is
24 bits per pixel.
"""

import math

from vidtok.config import TokenizerConfig


def bits_per_cell(config: TokenizerConfig, latent_bits: int = 16) -> float:
    """Return the bits of one cell of the latent, stored as it is.

    FSQ: log2 of the codebook. KL: every channel at `latent_bits`, the width of the stored type;
    that is a cost of storage, since a KL latent is made for generators and not to be coded.
    """
    if config.codebook_size is not None:
        return math.log2(config.codebook_size)
    return float(config.z_channels * latent_bits)


def bits_per_pixel(
    config: TokenizerConfig, frames: int, height: int, width: int, latent_bits: int = 16
) -> float:
    """Return the bits per pixel of a clip of that size whose cells are stored as they are.

    `latent_bits` is the width of one stored number of a KL latent; FSQ does not look at it.

    Raises:
        ValueError: the network does not take such a clip.
    """
    cells = _cells_per_pixel(config, frames, height, width)
    return cells * bits_per_cell(config, latent_bits)


def entropy_coded_bits_per_pixel(
    config: TokenizerConfig, frames: int, height: int, width: int, entropy_bits: float
) -> float:
    """Return the bits per pixel if code indices went through an ideal entropy coder.

    `entropy_bits` is what the coder spends on one code index. Take `channel_bound_bits` of
    `CodebookUse.summary`: the cost of coding every channel by itself, whose table has a few dozen
    entries. `entropy_bits` of the summary stands for a table with an entry per code, which would
    outweigh the clips, and is too small where tokens are few.

    Raises:
        ValueError: the network does not take such a clip, or it is no FSQ.
    """
    if config.codebook_size is None:
        raise ValueError(f"{config.name}: a KL latent has no code indices to count")
    return _cells_per_pixel(config, frames, height, width) * entropy_bits


def _cells_per_pixel(config: TokenizerConfig, frames: int, height: int, width: int) -> float:
    _, t, h, w = config.latent_shape(frames, height, width)
    return t * h * w / (frames * height * width)
