"""Finite scalar quantization: every latent channel is rounded to one of a few levels.

The codebook is the product of the channels' levels, so no table is needed. A code index is a number
in a mixed radix: its digits are the levels of the channels, channel 0 is the least significant.
Source: Mentzer et al., Finite Scalar Quantization, arXiv 2309.15505, section 3.1; the constants
are those of the VidTok release. All arithmetic is float32, whatever the network computes in.
"""

import math
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor

EPS = 1e-3
"""Fraction by which the bounds exceed the outermost levels, so that these can be reached."""


def quantize(z: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Round each channel to its levels. The gradient passes straight through the rounding.

    Args:
        z: `[..., C]` unbounded encoder output.
        levels: number of levels L of each of the C channels.

    Returns:
        Codes `[..., C]` float32: for L = 8 one of -1, -¾, …, ¾.
    """
    # Filled on the device: a copy from the host would wait for it.
    L = torch.stack([torch.full((), float(level), device=z.device) for level in levels])
    smooth = bounded(z, L)
    rounded = smooth + (smooth.round() - smooth).detach()
    return rounded / (L // 2)


def bounded(z: Tensor, L: Tensor) -> Tensor:
    """Return the float32 values that `quantize` rounds to integers; L has the channels' levels."""
    half = (L - 1) * (1 + EPS) / 2
    offset = torch.where(L % 2 == 0, 0.5, 0.0)
    return torch.tanh(z.float() + torch.atanh(offset / half)) * half - offset


def codes_to_indices(codes: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Return int32 indices `[...]` in [0, prod(levels)) of codes `[..., C]`."""
    width = torch.tensor([level // 2 for level in levels], device=codes.device)
    digits = (codes.float() * width + width).round().to(torch.int32)
    basis = torch.tensor(_basis(levels), dtype=torch.int32, device=codes.device)
    return (digits * basis).sum(-1, dtype=torch.int32)


def indices_to_codes(indices: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Return float32 codes `[..., C]`, bit for bit those of the integer indices `[...]`."""
    basis = torch.tensor(_basis(levels), device=indices.device)
    size = torch.tensor(levels, device=indices.device)
    digits = indices.unsqueeze(-1).to(torch.int64) // basis % size
    width = size // 2
    return (digits - width).float() / width.float()


def _basis(levels: tuple[int, ...]) -> list[int]:
    """Return (1, L₀, L₀L₁, …).

    Raises:
        ValueError: the codebook does not fit int32.
    """
    if math.prod(levels) > 2**31:
        raise ValueError(f"fsq_levels = {levels}: {math.prod(levels)} codes do not fit int32")
    return list(accumulate(levels[:-1], mul, initial=1))
