"""A small network whose features a perceptual term can compare, and its export."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim


class Edges(nn.Module):
    """Colours and steps between neighbours, at full and at half size."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return two feature maps of pictures `[N, 3, H, W]`."""
        return [_steps(x), _steps(F.avg_pool2d(x, 2))]


def _steps(x: Tensor) -> Tensor:
    cut = x[..., 1:, 1:]
    return torch.cat([cut + 2, cut - x[..., :-1, 1:], cut - x[..., 1:, :-1]], 1)


def exported(network: nn.Module, path: Path, side: Any = Dim.AUTO) -> Path:
    """Write a network with any number of pictures and, by default, any size, to a file."""
    sides = {0: Dim("N"), 2: side, 3: side}
    example = torch.zeros(2, 3, 64, 96)
    program = torch.export.export(network, (example,), dynamic_shapes=(sides,))
    torch.export.save(program, path)
    return path
