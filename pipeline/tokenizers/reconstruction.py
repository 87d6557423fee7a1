"""Frames from stored cells, and their PSNR against the frames that were encoded."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.job import Tile
from pipeline.dataset.cells import row_cells, to_tensor
from pipeline.dataset.quantized import row_scale
from pipeline.dataset.schema import TokenizerColumn
from pipeline.tokenizers.protocol import VideoTokenizer, tiling
from vidtok.evaluation.fidelity import psnr


def decode_cells(
    model: VideoTokenizer,
    column: TokenizerColumn,
    row: Mapping[str, Any],
    frames: int,
    tile: Tile = None,
) -> Tensor:
    """Return the clip `[1, 3, T, H, W]` that a row's cells decode to, on the model's device.

    Args:
        model: the tokenizer that made the cells.
        column: the column that holds them.
        row: the columns of one clip, as they are stored.
        frames: T.
        tile: `tokenize.tile`; tokenizers without tiles ignore it.
    """
    stored = row_cells(row[column.name], row[f"{column.name}_shape"], column)
    values = to_tensor(stored, column, row_scale(row, column))[None]
    cells = values if column.kind == "indices" else values.float()
    return model.decode(cells, frames, **tiling(model, tile))


def as_bytes(video: Tensor) -> NDArray[np.uint8]:
    """Return a clip `[1, 3, T, H, W]` in [-1, 1] as 8-bit frames `[T, H, W, 3]`, clamped."""
    pixels = ((video[0].float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    frames: NDArray[np.uint8] = pixels.permute(1, 2, 3, 0).contiguous().cpu().numpy()
    return frames


def clip_psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the PSNR of two clips [T, H, W, 3] in [0, 255], in dB: the mean over frames."""
    x, y = (torch.from_numpy(clip / 255).permute(0, 3, 1, 2) for clip in (one, other))
    return float(psnr(x, y).mean())


def eight_bits(frames: NDArray[Any]) -> NDArray[np.uint8]:
    """Return frames in [0, 255] as uint8, the type of decoded frames."""
    return frames.round().astype(np.uint8)
