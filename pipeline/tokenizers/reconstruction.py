"""From stored cells back to frames, and how well these match the frames that were encoded."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.dataset.cells import row_cells, to_tensor
from pipeline.dataset.schema import TokenizerColumn
from vidtok.evaluation.fidelity import psnr


class DecodingModel(Protocol):
    """The part of a `vidtok` model that decoding needs."""

    def decode(self, latent: Tensor, num_frames: int | None = None) -> Tensor:
        """Decode a latent [B, Z, t, h, w] to a video [B, 3, T, H, W], near [-1, 1]."""

    def decode_indices(self, indices: Tensor, num_frames: int | None = None) -> Tensor:
        """Decode FSQ code indices [B, t, h, w] likewise."""


def decode_cells(
    model: DecodingModel, column: TokenizerColumn, row: Mapping[str, Any], frames: int
) -> NDArray[np.uint8]:
    """Return the frames [T, H, W, 3] that a row's tokens stand for."""
    cells = row_cells(row[column.name], row[f"{column.name}_shape"], column)
    values = to_tensor(cells, column)[None]
    if column.kind == "fsq":
        video = model.decode_indices(values, num_frames=frames)
    else:
        video = model.decode(values.float(), num_frames=frames)
    pixels = ((video[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    shown: NDArray[np.uint8] = pixels.permute(1, 2, 3, 0).cpu().numpy()
    return shown


def clip_psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the PSNR of two clips [T, H, W, 3] in [0, 255], in dB: the mean of their frames'."""
    x, y = (torch.from_numpy(clip / 255).permute(0, 3, 1, 2) for clip in (one, other))
    return float(psnr(x, y).mean())


def eight_bits(frames: NDArray[Any]) -> NDArray[np.uint8]:
    """Return frames in [0, 255] as what decoded ones are compared with."""
    return frames.round().astype(np.uint8)
