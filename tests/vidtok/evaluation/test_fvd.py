import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vidtok.evaluation import fvd


class CallLikeI3D(nn.Module):
    """Has the call of the published TorchScript file; its features say what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(400))

    def forward(
        self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> Tensor:
        if not (rescale and resize and return_features):
            raise RuntimeError("called otherwise than StyleGAN-V calls it")
        told = torch.stack([x.amin((1, 2, 3, 4)), x.amax((1, 2, 3, 4)), x.mean((1, 2, 3, 4))], 1)
        return torch.cat([told, torch.zeros(x.shape[0], 397)], 1) * self.weight


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("i3d") / "anything.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, as I3D's own file
        torch.jit.script(CallLikeI3D()).save(str(path))
    return path


@pytest.fixture
def no_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_pixels_reach_the_network_from_0_to_255_and_unrounded(file: Path) -> None:
    video = torch.full((2, 3, 9, 8, 8), -1.0)
    video[0, 0] = 1.5
    video[1] = 0.123
    features = fvd.features(fvd.load_i3d(file), video)
    assert features.shape == (2, fvd.DIMENSIONS)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features[0, :3], torch.tensor([0.0, 255.0, 85.0]))
    torch.testing.assert_close(features[1, :3], torch.full((3,), 1.123 * 127.5))


@pytest.mark.parametrize("frames", [1, 8])
def test_clips_that_are_too_short_are_refused(file: Path, frames: int) -> None:
    with pytest.raises(ValueError, match=f"clips of {frames} frames.*needs 9 or more"):
        fvd.features(fvd.load_i3d(file), torch.zeros(1, 3, frames, 8, 8))


@pytest.mark.parametrize(
    "place",
    [
        "torch/hub/checkpoints/i3d_torchscript.pt",
        ".cache/vidtok/i3d_torchscript.pt",
        ".cache/fvd/i3d_torchscript.pt",
        ".cache/dnnlib/downloads/0123456789abcdef_i3d_torchscript.pt",
    ],
)
def test_usual_places_are_looked_into(file: Path, no_caches: Path, place: str) -> None:
    (no_caches / place).parent.mkdir(parents=True)
    (no_caches / place).write_bytes(file.read_bytes())
    assert fvd.features(fvd.load_i3d(), torch.zeros(1, 3, 9, 8, 8)).shape == (1, 400)


def test_a_missing_file_says_where_to_get_it(no_caches: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"get it from https://.*hub/checkpoints"):
        fvd.load_i3d()


def test_a_path_that_is_given_is_the_only_one(file: Path, no_caches: Path) -> None:
    cached = no_caches / ".cache" / "vidtok" / fvd.FILE
    cached.parent.mkdir(parents=True)
    cached.write_bytes(file.read_bytes())
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.pt"):
        fvd.load_i3d(no_caches / "elsewhere.pt")
