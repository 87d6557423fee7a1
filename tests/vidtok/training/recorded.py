"""Losses that the public reference gave, and the inputs and weights that gave them."""

import json
from functools import cache
from typing import Any

import torch
from torch import nn

from tests.vidtok.deterministic import make_tensor
from tests.vidtok.goldens import FOLDER
from vidtok.lpips import LPIPS


@cache
def losses() -> dict[str, Any]:
    return json.loads((FOLDER / "training.json").read_text())


@torch.no_grad()
def fill_discriminator(discriminator: nn.Module, kind: str) -> None:
    """Draw the weights, BatchNorm's scales around 1."""
    for name, parameter in discriminator.named_parameters():
        parameter.copy_(make_tensor(f"discriminator{kind}.{name}", parameter.shape))
        if name.endswith(".weight") and parameter.dim() == 1:
            parameter.add_(1)


@cache
def filled_lpips() -> LPIPS:
    """Return LPIPS with drawn weights, the heads positive; shared, for its weights are frozen."""
    lpips = LPIPS()
    for name, parameter in lpips.named_parameters():
        parameter.copy_(make_tensor(f"lpips.{name}", parameter.shape))
        if name.startswith("lin"):
            parameter.abs_()
    return lpips
