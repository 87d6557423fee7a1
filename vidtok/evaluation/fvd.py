"""Features for FVD: the I3D network trained on Kinetics-400.

Source: Unterthiner et al., Towards Accurate Generative Models of Video, arXiv 1812.01717. The
network is the TorchScript file that StyleGAN-V (arXiv 2112.14683) published and that most papers
use. It is not part of this package and cannot be replaced: the features of another network give a
different distance, which is not FVD.
"""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

FILE = "i3d_torchscript.pt"
URL = "https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1"

MIN_FRAMES = 9
"""Minimum length of a clip: three halvings of time must leave the two frames that I3D averages."""

DIMENSIONS = 400


def load_i3d(
    path: Path | None = None, device: torch.device | str = "cpu"
) -> torch.jit.ScriptModule:
    """Load the network.

    Args:
        path: the TorchScript file. None looks in the usual places: torch hub's checkpoints,
            `~/.cache/vidtok`, `~/.cache/fvd` and the cache of StyleGAN-V.
        device: device that it computes on.

    Raises:
        FileNotFoundError: there is no such file; the text says how to get it.
    """
    found = next((file for file in ([path] if path else _usual_places()) if file.is_file()), None)
    if found is None:
        missing = path or f"{FILE} in none of the usual folders"
        put = torch.hub.get_dir() + "/checkpoints/"
        raise FileNotFoundError(f"I3D for FVD: {missing}; get it from {URL} and put it into {put}")
    with warnings.catch_warnings():
        # TorchScript is deprecated, but it is the only form in which this network was published.
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is", DeprecationWarning)
        load: Callable[..., torch.jit.ScriptModule] = torch.jit.load
        return load(str(found), map_location=device).eval()


@torch.no_grad()
def features(model: torch.jit.ScriptModule, video_BCTHW: Tensor) -> Tensor:
    """Return the logits `[B, 400]`, float32 on the CPU, of clips `[B, 3, T, H, W]` in [-1, 1].

    The network itself resizes to 224×224 and takes values from 0 to 255: these are clamped but not
    rounded to 8 bits.

    Raises:
        ValueError: the clips are shorter than 9 frames.
    """
    frames = video_BCTHW.shape[2]
    if frames < MIN_FRAMES:
        raise ValueError(f"clips of {frames} frames: I3D, and so FVD, needs {MIN_FRAMES} or more")
    device = next(model.parameters()).device
    pixels = (video_BCTHW.to(device, torch.float32).clamp(-1, 1) + 1) * 127.5
    logits: Tensor = model(pixels, rescale=True, resize=True, return_features=True)
    return logits.float().cpu()


def _usual_places() -> Iterator[Path]:
    cache = Path.home() / ".cache"
    yield Path(torch.hub.get_dir()) / "checkpoints" / FILE
    yield cache / "vidtok" / FILE
    yield cache / "fvd" / FILE
    yield from sorted((cache / "dnnlib" / "downloads").glob(f"*{FILE}"))  # named by MD5 in front
