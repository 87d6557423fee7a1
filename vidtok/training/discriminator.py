"""Patch discriminators: they judge whether each patch of a picture or clip is real.

Source: Isola et al., Image-to-Image Translation with Conditional Adversarial Networks,
arXiv 1611.07004, section 3.2.2, and its extension to volumes; widths, strides, names and shapes of
tensors are those of the VidTok release.
"""

from typing import Literal

from torch import Tensor, nn

_WIDTHS = (3, 64, 128, 256, 512, 1)


class PatchDiscriminator(nn.Module):
    """Five convolutions, BatchNorm in all but the first and the last, LeakyReLU 0.2 between.

    "2d" takes pictures `[N, 3, H, W]` and returns logits `[N, 1, h, w]`, each for 70×70 pixels.
    "3d" takes clips `[B, 3, T, H, W]` and returns logits `[B, 1, t, h, w]`.
    """

    def __init__(self, kind: Literal["2d", "3d"]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(5):
            layers.append(_conv(kind, i))
            if 1 <= i <= 3:
                layers.append(_norm(kind, _WIDTHS[i + 1]))
            if i <= 3:
                layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, which are high where x looks real."""
        logits: Tensor = self.main(x)
        return logits


def _conv(kind: Literal["2d", "3d"], i: int) -> nn.Module:
    widths = _WIDTHS[i], _WIDTHS[i + 1]
    bias = i in (0, 4)  # BatchNorm, which has a bias, follows the others
    conv: nn.Conv2d | nn.Conv3d
    if kind == "2d":
        conv = nn.Conv2d(*widths, 4, stride=2 if i <= 2 else 1, padding=1, bias=bias)
    else:
        stride = [(2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 1, 1), (1, 1, 1)][i]
        conv = nn.Conv3d(*widths, 3, stride=stride, padding=1, bias=bias)
    nn.init.normal_(conv.weight, 0.0, 0.02)
    return conv


def _norm(kind: Literal["2d", "3d"], width: int) -> nn.Module:
    norm = nn.BatchNorm2d(width) if kind == "2d" else nn.BatchNorm3d(width)
    nn.init.normal_(norm.weight, 1.0, 0.02)
    return norm
