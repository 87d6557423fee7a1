"""From a picture as coded to the bucket: one antialiased bilinear resize, a turn, a crop.

The reference does the same on floats (`torchvision.transforms.Resize(antialias=True)`, which is
`F.interpolate`). The turn comes after the resize, where it moves a hundred kilobytes instead of six
megabytes. It only reorders pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipeline.decode.pixels.geometry import Fit, Orientation


def resize(pixels: NDArray[Any], fit: Fit, orientation: Orientation) -> NDArray[Any]:
    """Return the bucket's pixels, in the dtype of the input.

    `uint8` is computed in the fixed point of `F.interpolate` and is within one level of the float
    result. `float32` is the reference's own arithmetic.

    Args:
        pixels: `[h, w, 3]` uint8 or float32, as coded.
        fit: size and crop, in upright pixels.
        orientation: how the picture as coded is turned upright.

    Returns:
        `[fit.height, fit.width, 3]`.
    """
    size = (fit.resized_height, fit.resized_width)
    if orientation.transpose:
        size = size[::-1]
    if size != pixels.shape[:2]:
        picture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        picture = F.interpolate(picture, size=size, mode="bilinear", antialias=True)
        pixels = picture[0].permute(1, 2, 0).numpy()
    if orientation.transpose:
        pixels = pixels.swapaxes(0, 1)
    if orientation.flip_rows:
        pixels = pixels[::-1]
    if orientation.flip_columns:
        pixels = pixels[:, ::-1]
    return pixels[fit.top : fit.top + fit.height, fit.left : fit.left + fit.width]
