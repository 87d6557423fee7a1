from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.vidtok.deterministic import synthetic_video, unit_normal
from tests.vidtok.training.recorded import filled_lpips, losses
from vidtok import lpips
from vidtok.lpips import LPIPS, load_lpips


@pytest.fixture
def filled() -> LPIPS:
    return filled_lpips()


def pictures(seed: int, frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    x = synthetic_video(1, frames, height, width, seed)[0].transpose(0, 1)
    return x, (x + 0.1 * unit_normal("metric.noise", x.shape, seed)).clamp(-1, 1)


@pytest.mark.parametrize("case", losses()["lpips"]["cases"], ids=lambda case: str(case["video"]))
def test_equals_the_reference(filled: LPIPS, case: dict) -> None:
    video = case["video"]
    x, y = pictures(video["seed"], video["frames"], video["height"], video["width"])
    with torch.no_grad():
        features = filled.net(filled.scaling_layer(x))
        assert [f.mean().item() for f in features] == pytest.approx(case["feature_means"], rel=1e-4)
        assert filled(x, y).tolist() == pytest.approx(case["lpips_per_frame"], rel=1e-4)


def test_names_are_those_of_the_release(filled: LPIPS) -> None:
    shapes = {name: list(tensor.shape) for name, tensor in filled.state_dict().items()}
    assert shapes == losses()["lpips"]["state_dict"]


def test_gradients_reach_the_pictures_and_no_weight(filled: LPIPS) -> None:
    x, y = pictures(3, 1, 32, 32)
    y.requires_grad_()
    filled(x, y).sum().backward()
    assert y.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in filled.parameters())


@pytest.fixture
def vgg16(tmp_path: Path, filled: LPIPS) -> Path:
    """A file with torchvision's names, its classifier included."""
    tensors = {
        f"features.{name.split('.', 2)[2]}": tensor.detach()
        for name, tensor in filled.named_parameters()
        if name.startswith("net.")
    }
    torch.save(tensors | {"classifier.0.bias": torch.zeros(4)}, tmp_path / "vgg16.pth")
    return tmp_path / "vgg16.pth"


def test_reads_vgg16_and_the_heads_that_torchmetrics_contains(filled: LPIPS, vgg16: Path) -> None:
    loaded = load_lpips(vgg16)
    for name, parameter in loaded.net.named_parameters():
        assert torch.equal(parameter, filled.net.get_parameter(name))
    heads = [loaded.get_parameter(f"lin{i}.model.1.weight") for i in range(5)]
    assert all((head >= 0).all() for head in heads)
    x, _ = pictures(3, 1, 32, 32)
    assert loaded(x, x).item() == 0


def test_reads_heads_of_the_release(filled: LPIPS, vgg16: Path, tmp_path: Path) -> None:
    heads = {k: v for k, v in filled.state_dict().items() if k.startswith("lin")}
    torch.save(heads, tmp_path / "vgg.pth")
    loaded = load_lpips(vgg16, tmp_path / "vgg.pth")
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in filled.state_dict().items())


def test_looks_for_vgg16_in_the_hub_cache(
    tmp_path: Path, vgg16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(FileNotFoundError, match=r"vgg16-397923af\.pth: no weights of VGG16"):
        load_lpips()
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    vgg16.rename(cache / "vgg16-397923af.pth")
    load_lpips()


def test_missing_heads_are_told_with_their_mend(
    vgg16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no heads of LPIPS"):
        load_lpips(vgg16, tmp_path / "none.pth")
    monkeypatch.setattr(lpips, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="install torchmetrics"):
        load_lpips(vgg16)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: holds no features\.0\.weight of shape"):
        load_lpips(tmp_path / "other.pth")
