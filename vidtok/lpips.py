"""LPIPS: perceptual distance of two pictures, by features of a VGG16 trained on ImageNet.

The features of each layer are scaled to length 1 at each position. A trained head weights their
squared differences per channel. These are averaged over positions and summed over layers.
Source: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric,
arXiv 1801.03924, equation 1. Names of tensors are those of the VidTok release's loss.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from vidtok import ops

_BLOCKS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
"""Widths of VGG16's convolutions up to relu5_3. A pooling separates the blocks."""

_VGG16_FILE = "vgg16-397923af.pth"
_VGG16_URL = f"https://download.pytorch.org/models/{_VGG16_FILE}"
_HEADS = "functional/image/lpips_models/vgg.pth"


class LPIPS(nn.Module):
    """The distance of pairs of pictures: 0 for equal pictures, rarely above 1.

    Weights are frozen, train and eval mode are equal, and gradients reach the pictures. A new
    object has random weights: `load_lpips` returns the metric.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = _Scaling()
        self.net = _Vgg16()
        for i, widths in enumerate(_BLOCKS):
            self.add_module(f"lin{i}", _Head(widths[-1]))
        self.requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of each pair, float32 `[N]`.

        Args:
            x: pictures `[N, 3, H, W]` in [-1, 1], H and W at least 16.
            y: pictures of the same shape.
        """
        with ops.autocast(x.device):
            pairs = zip(self._features(x), self._features(y), strict=True)
            layers = [
                self.get_submodule(f"lin{i}")((fx - fy).square()).mean((1, 2, 3))
                for i, (fx, fy) in enumerate(pairs)
            ]
        return torch.stack(layers).sum(0)

    def _features(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.net(self.scaling_layer(x.float()))
        norms = [torch.linalg.vector_norm(f, dim=1, keepdim=True) for f in features]
        return [f / (norm + 1e-10) for f, norm in zip(features, norms, strict=True)]


class _Scaling(nn.Module):
    """ImageNet's normalisation, for values in [-1, 1]."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


class _Vgg16(nn.Module):
    """The convolutions of VGG16 (arXiv 1409.1556, configuration D), numbered as in torchvision."""

    def __init__(self) -> None:
        super().__init__()
        number, channels = 0, 3
        for i, widths in enumerate(_BLOCKS):
            block = nn.Sequential()
            if i > 0:
                block.add_module(str(number), nn.MaxPool2d(2))
                number += 1
            for width in widths:
                block.add_module(str(number), nn.Conv2d(channels, width, 3, padding=1))
                block.add_module(str(number + 1), nn.ReLU(inplace=True))
                number, channels = number + 2, width
            self.add_module(f"slice{i + 1}", block)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features after relu1_2, 2_2, 3_3, 4_3 and 5_3."""
        features = []
        for block in self.children():
            x = block(x)
            features.append(x)
        return features


class _Head(nn.Module):
    """A weight per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Identity takes the place of a dropout in training, so that the names have their 1.
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = self.model(x)
        return weighted


def load_lpips(vgg16: Path | None = None, heads: Path | None = None) -> LPIPS:
    """Return LPIPS with its trained weights. Nothing is downloaded.

    Args:
        vgg16: torchvision's VGG16 weights. None looks in torch's hub cache, where torchvision
            stores them.
        heads: `vgg.pth` of LPIPS 0.1. None takes the file in torchmetrics.

    Raises:
        FileNotFoundError: a file is missing; the text says how to get it.
        ValueError: a file does not hold the required tensors.
    """
    vgg16 = vgg16 or Path(torch.hub.get_dir()) / "checkpoints" / _VGG16_FILE
    if not vgg16.is_file():
        raise FileNotFoundError(
            f"{vgg16}: no weights of VGG16 for LPIPS; download {_VGG16_URL} to this path, "
            "or give the file's path"
        )
    heads = heads or _heads_of_torchmetrics()
    if not heads.is_file():
        raise FileNotFoundError(f"{heads}: no heads of LPIPS; must be vgg.pth of LPIPS 0.1")
    lpips = LPIPS()
    tensors = _read(vgg16) | _read(heads)
    for name, parameter in lpips.named_parameters():
        # net.slice2.5.weight is features.5.weight; heads have their own names.
        source = "features." + name.split(".", 2)[2] if name.startswith("net.") else name
        file = vgg16 if name.startswith("net.") else heads
        stored = tensors.get(source)
        if stored is None or stored.shape != parameter.shape:
            whose = "VGG16 of torchvision" if file == vgg16 else "vgg.pth of LPIPS 0.1"
            raise ValueError(
                f"{file}: holds no {source} of shape {tuple(parameter.shape)}; give {whose}"
            )
        parameter.copy_(stored)
    return lpips


def _heads_of_torchmetrics() -> Path:
    """Return the path of the heads in torchmetrics, without importing it."""
    spec = find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "no heads of LPIPS: install torchmetrics, which contains them, or give the path of "
            "vgg.pth of LPIPS 0.1"
        )
    return Path(spec.origin).parent / _HEADS


def _read(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors
