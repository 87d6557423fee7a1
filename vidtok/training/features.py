"""A perceptual distance in the features of any network, for use instead of LPIPS.

The features of each layer are scaled to length 1 at each position. Their squared differences are
summed over channels, averaged over positions, and averaged over layers: LPIPS without its trained
heads. Source: Zhang et al., arXiv 1801.03924, equation 1 with equal weights.
"""

import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from vidtok import ops

Network = Callable[[Tensor], Sequence[Tensor]]
"""Pictures `[N, 3, H, W]` in [-1, 1] to one feature map `[N, C, h, w]` a layer, at least one."""


_LEAST_SIDE: Final = 32
_PROBES: Final = ((1, _LEAST_SIDE, 48), (2, 64, _LEAST_SIDE))
"""N, height and width of pictures that a network must take."""


class FeatureDistance:
    """The distance of pairs of pictures: 0 for equal pictures, at most 4.

    The network's weights get no gradient if they need none. Gradients reach the pictures.
    """

    def __init__(self, network: Network) -> None:
        self._network = network

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of each pair, float32 `[N]`.

        Args:
            x: pictures `[N, 3, H, W]` in [-1, 1]; N, H and W as the network takes them.
            y: pictures of the same shape.
        """
        with ops.autocast(x.device):
            layers = [
                (_unit(fx) - _unit(fy)).square().sum(1).mean((1, 2))
                for fx, fy in zip(self._network(x.float()), self._network(y.float()), strict=True)
            ]
        return torch.stack(layers).mean(0)


def _unit(features: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (norm + 1e-10)


def load_features(path: Path, device: str = "cpu") -> FeatureDistance:
    """Return the distance in the features of a network that `torch.export.save` wrote.

    Such a file holds a program and is read with pickle: use only files that you trust.

    Args:
        path: file of an exported `Network`, in eval mode, with dynamic N, H and W; H and W can be
            32, because training measures its memory with such clips.
        device: device of the pictures.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no exported program, or one that is not a `Network`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give one that torch.export.save wrote")
    if not _is_exported(path):
        raise ValueError(f"{path}: not a file of torch.export.save; give one that it wrote")
    network = torch.export.load(path).module().to(device).requires_grad_(False)
    try:
        for n, height, width in _PROBES:
            made = network(torch.zeros(n, 3, height, width, device=device))
            if isinstance(made, Tensor) or not made or any(layer.ndim != 4 for layer in made):
                raise TypeError("it returns no list of feature maps [N, C, h, w]")
    except (AssertionError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{path}: must take pictures [N, 3, H, W] of any N, and any H and W from {_LEAST_SIDE}"
            f" on, and return a list of feature maps: {str(error).splitlines()[0]}"
        ) from error
    return FeatureDistance(network)


def _is_exported(path: Path) -> bool:
    # Files of torch.save are archives, too. torch.export.load logs a stack trace about them.
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/archive_format") for name in archive.namelist())
