"""The recorded results of the public reference, and how to make the inputs that gave them."""

import gzip
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parents[1] / "data" / "goldens"


def configurations() -> dict[str, dict]:
    """Name → facts and tensor shapes of each released configuration."""
    return json.loads(gzip.decompress((FOLDER / "configurations.json.gz").read_bytes()))


def models() -> list[dict]:
    """Every whole-model golden: configuration, video, tiling."""
    return json.loads((FOLDER / "models.json").read_text())


@cache
def _file(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / name) as stored:
        return dict(stored)


def array(golden: str, name: str) -> Tensor | None:
    """Return one array of a whole-model golden, None if it has none of that name."""
    stored = _file("models.npz").get(f"{golden}/{name}")
    return None if stored is None else torch.from_numpy(stored)


def unit(kind: str, name: str) -> Tensor:
    """Return one array of a regularizer's golden."""
    return torch.from_numpy(_file(f"unit_{kind}.npz")[name])
