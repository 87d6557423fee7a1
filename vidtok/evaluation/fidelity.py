"""PSNR and SSIM of single frames, as VidTok's published tables count them.

Sources: VidTok, arXiv 2412.13061; Wang et al., Image Quality Assessment: From Error Visibility to
Structural Similarity, IEEE TIP 13(4), 2004. Libraries treat the edge of a picture and large sizes
differently, which changes SSIM by up to 0.01. Here nothing is padded, and large pictures are first
averaged down to about 256 pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST_SIDE = 11
"""Minimum height and width in pixels for SSIM: the side of its window."""

_WINDOW, _SIGMA = SHORTEST_SIDE, 1.5
_K1, _K2 = 0.01, 0.03


def psnr(x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each frame, in dB.

    Args:
        x_NCHW: float `[N, C, H, W]` in [0, 1].
        y_NCHW: the same shape.

    Returns:
        float32 `[N]`; 80 for equal frames, because 1e-8 is added to the mean squared error.

    Raises:
        ValueError: the shapes differ.
    """
    _check(x_NCHW, y_NCHW)
    error_N = (x_NCHW.float() - y_NCHW.float()).square().mean((1, 2, 3))
    return -10 * torch.log10(error_N + 1e-8)


def ssim(x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
    """Return the structural similarity of each frame: mean over channels and positions.

    An 11×11 Gaussian of σ 1.5 without padding, K₁ = 0.01, K₂ = 0.03. Both frames are first averaged
    over squares of max(1, round(min(H, W) / 256)) pixels.

    Args:
        x_NCHW: float `[N, C, H, W]` in [0, 1], at least 11 pixels high and wide.
        y_NCHW: the same shape.

    Returns:
        float32 `[N]`, 1 for equal frames.

    Raises:
        ValueError: the shapes differ, or the frames are smaller than the window.
    """
    _check(x_NCHW, y_NCHW)
    height, width = x_NCHW.shape[-2:]
    if min(height, width) < _WINDOW:
        raise ValueError(f"frames of {height}×{width}: SSIM needs {_WINDOW}×{_WINDOW} pixels")
    pool = max(1, round(min(height, width) / 256))  # half to even, as in the source
    x, y = (F.avg_pool2d(frames.float(), pool) for frames in (x_NCHW, y_NCHW))
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x.square()
    var_y = _blur(y * y) - mean_y.square()
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = _K1**2, _K2**2
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (structure * luminance).mean((1, 2, 3))


def _blur(x_NCHW: Tensor) -> Tensor:
    """Convolve with the Gaussian along each axis, which makes each axis 10 pixels shorter."""
    offsets = torch.arange(_WINDOW, dtype=torch.float32, device=x_NCHW.device) - _WINDOW // 2
    weights = torch.softmax(-offsets.square() / (2 * _SIGMA**2), 0)
    planes = x_NCHW.flatten(0, 1).unsqueeze(1)
    planes = F.conv2d(F.conv2d(planes, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return planes.reshape(*x_NCHW.shape[:2], *planes.shape[-2:])


def _check(x_NCHW: Tensor, y_NCHW: Tensor) -> None:
    if x_NCHW.dim() != 4 or x_NCHW.shape != y_NCHW.shape:
        raise ValueError(
            f"frames of shapes {list(x_NCHW.shape)} and {list(y_NCHW.shape)}: "
            "two equal shapes [N, C, H, W] are needed"
        )
