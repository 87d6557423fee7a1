"""What a column's tokenizer gets of a clip: some of its frames, or smaller frames.

The pixels of a smaller frame are means of blocks of pixels. Those of uint8 frames are exact: they
are integer sums, divided once in float32. Sums of float32 pixels have one order on every device.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.dataset.schema import TokenizerColumn
from pipeline.tokenizers.reconstruction import eight_bits


def area_means(frames: Tensor, scale: int) -> Tensor:
    """Return frames [..., H, W, 3] as float32 [..., H / scale, W / scale, 3].

    Args:
        frames: uint8 or float32.
        scale: divisor of H and W, of which both are multiples.
    """
    if scale == 1:
        return frames.to(torch.float32)
    whole = torch.int16 if frames.dtype == torch.uint8 else torch.float32
    rows = _block_sums(frames, -3, scale, whole)
    return _block_sums(rows, -2, scale, torch.float32).div_(scale * scale)


def _block_sums(values: Tensor, axis: int, size: int, dtype: torch.dtype) -> Tensor:
    blocks = torch.unflatten(values, axis, (-1, size))
    first, *others = blocks.unbind(axis)
    total = first.to(dtype, copy=True)
    for other in others:
        total += other
    return total


def input_frames(frames: NDArray[Any], column: TokenizerColumn) -> NDArray[Any]:
    """Return what a column's tokenizer gets of a clip, rounded to uint8 [t, h, w, 3].

    Args:
        frames: [T, H, W, 3] in [0, 255], uint8 or float32.
        column: the column.
    """
    return eight_bits(area_means(torch.tensor(frames[:: column.every]), column.scale).numpy())
