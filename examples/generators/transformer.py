"""Parts of both generators: patches of latent cells, their positions, and transformer blocks.

Letters: B clips, C channels and t h w cells of a latent, p cells along the side of a patch,
N = t · h/p · w/p patches, D width, H heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import ConfigError

Past = list[Tensor]
"""Keys and values [B, H, N, D/H] of a block's previous patches; empty at first."""

_HEAD_WIDTH = 32


class Transformer(nn.Module):
    """Pre-norm blocks between an input and an output of the same width."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        if width % _HEAD_WIDTH:
            raise ConfigError(f"--width {width}: must be a multiple of {_HEAD_WIDTH}")
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(
        self, x: Tensor, places: Tensor, *, causal: bool = False, past: list[Past] | None = None
    ) -> Tensor:
        """Transform [B, N, D].

        Args:
            x: patches.
            places: positions [N, 3] from `patch_places`.
            causal: whether a patch attends only to itself and the patches before it.
            past: past of each block; `x` is then the single next patch, which is added to it.
        """
        angles = places_to_angles(places)
        for n, block in enumerate(self.blocks):
            x = block(x, angles, causal, None if past is None else past[n])
        return self.norm(x)


class Block(nn.Module):
    """Attention and an MLP, each with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, angles: Tensor, causal: bool, past: Past | None) -> Tensor:
        """Transform [B, N, D]; arguments as in `Transformer.forward`."""
        heads = self.qkv(self.norms[0](x)).unflatten(-1, (3, -1, _HEAD_WIDTH))
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each [B, H, N, D/H]
        q, k = turned(q, angles), turned(k, angles)
        if past is not None:
            if past:
                k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
            past[:] = k, v
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=causal and past is None)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norms[1](x))


class Positions(nn.Module):
    """Embedding of a patch's position from sines of its t, h and w."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3 * 32, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, places: Tensor) -> Tensor:
        """Return [N, D] for places [N, 3]."""
        return self.mlp(waves(places, 32).flatten(1))


def patch_places(grid: tuple[int, int, int], device: torch.device) -> Tensor:
    """Return t, h and w [N, 3] of a grid of patches, in the order of `to_patches`."""
    axes = torch.meshgrid(*(torch.arange(n, device=device) for n in grid), indexing="ij")
    return torch.stack([axis.flatten() for axis in axes], 1)


def places_to_angles(places: Tensor) -> Tensor:
    """Return the rotation angle of each pair of a head's channels, [N, D/H/2].

    Each axis has five pairs; the last pair is not rotated.
    Source: Su et al., RoFormer, arXiv 2104.09864.
    """
    rates = math.pi / 2 * torch.logspace(0, -1, _HEAD_WIDTH // 6, device=places.device)
    return F.pad((places[..., None] * rates).flatten(1), (0, _HEAD_WIDTH // 2 % 3))


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate pairs of channels of queries or keys [B, H, N, D/H], as RoPE does."""
    one, other = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([one * cos - other * sin, one * sin + other * cos], -1)


def waves(x: Tensor, width: int) -> Tensor:
    """Return sines and cosines [..., width] of numbers [...], of wavelengths from 6 to 1000."""
    rates = torch.logspace(0, -math.log10(160), width // 2, device=x.device)
    angles = x[..., None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], -1)


def patch_grid(cells: tuple[int, int, int], p: int) -> tuple[int, int, int]:
    """Return the number of patches along t, h and w.

    Raises:
        ConfigError: patches do not divide the latent.
    """
    t, h, w = cells
    if h % p or w % p:
        raise ConfigError(f"--patch {p}: does not divide latents of {h}×{w} cells; try --patch 1")
    return t, h // p, w // p


def to_patches(x: Tensor, p: int) -> Tensor:
    """Return [B, C, t, h, w] as [B, N, p·p·C], patches in the order of t, h, w."""
    x = x.unflatten(3, (-1, p)).unflatten(5, (-1, p))  # B C t h p w p
    return x.permute(0, 2, 3, 5, 4, 6, 1).flatten(4).flatten(1, 3)


def from_patches(patches: Tensor, grid: tuple[int, int, int], p: int) -> Tensor:
    """Undo `to_patches`."""
    x = patches.unflatten(1, grid).unflatten(-1, (p, p, -1))  # B t h w p p C
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)
