"""A substitute for a learned perceptual distance, for use without VGG16's weights.

It penalizes blurred edges and lost texture, which differences of single values hardly show. It is
not LPIPS. Its values are comparable only with each other, and a model trained with it must say so.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vidtok import ops

_SCALES = 3
_WINDOW = 7
SHORTEST_SIDE = _WINDOW << (_SCALES - 1)
"""Pixels: a quarter of it still holds a window."""
_C1 = 0.01**2
_C2 = 0.03**2


def structural_distance(x: Tensor, y: Tensor) -> Tensor:
    """Return how much edges and local structure differ, float32 `[N]`: 0 for equal pictures.

    At full, half and quarter size: the mean absolute difference of the steps between neighbouring
    values, plus 1 - SSIM (Wang et al., doi 10.1109/TIP.2003.819861) over 7×7 windows; averaged
    over the sizes.

    Args:
        x: pictures `[N, 3, H, W]` in [-1, 1].
        y: pictures of the same shape.

    Raises:
        ValueError: a side is shorter than 28, of which a quarter does not hold a window.
    """
    if min(x.shape[-2:]) < SHORTEST_SIDE:
        raise ValueError(
            f"pictures of {x.shape[-2]}×{x.shape[-1]}: both sides must be at least {SHORTEST_SIDE}"
        )
    with ops.autocast(x.device):
        x, y = x.float(), y.float()
        total = x.new_zeros(len(x))
        for scale in range(_SCALES):
            if scale > 0:
                x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
            total = total + _edge_difference(x, y) + 1 - _ssim(x, y)
    return total / _SCALES


def _edge_difference(x: Tensor, y: Tensor) -> Tensor:
    difference = x - y
    across = difference.diff(dim=3).abs().mean((1, 2, 3))
    return across + difference.diff(dim=2).abs().mean((1, 2, 3))


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    x, y = (x + 1) / 2, (y + 1) / 2  # SSIM compares means by their ratio, so black must be 0
    # One pooling for all five means: the windows cost more than what is done with them.
    means = F.avg_pool2d(torch.cat([x, y, x * x, y * y, x * y], 1), _WINDOW, stride=1)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = means.chunk(5, 1)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x.square() + mean_y.square() + _C1)
    variances = mean_xx - mean_x.square() + mean_yy - mean_y.square()
    structure = (2 * (mean_xy - mean_x * mean_y) + _C2) / (variances + _C2)
    return (luminance * structure).mean((1, 2, 3))
