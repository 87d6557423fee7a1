"""A perceptual distance in the features of a network that a file brings along."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from tests.vidtok.deterministic import synthetic_video, unit_normal
from tests.vidtok.training.networks import Edges, exported
from vidtok.training.features import FeatureDistance, load_features

PICTURES = synthetic_video(1, 3, 64, 48, 3)[0].transpose(0, 1)


def test_the_distance_is_that_of_features_of_length_1() -> None:
    other = PICTURES + 0.1 * unit_normal("noise", PICTURES.shape)
    distance = FeatureDistance(Edges())(PICTURES, other)
    expected = torch.stack(
        [
            (2 - 2 * F.cosine_similarity(fx, fy, eps=0)).mean((1, 2))
            for fx, fy in zip(Edges()(PICTURES), Edges()(other), strict=True)
        ]
    ).mean(0)
    torch.testing.assert_close(distance, expected, rtol=1e-4, atol=1e-5)
    assert distance.shape == (3,)
    assert distance.min() > 0.005


def test_equal_pictures_are_at_distance_0_and_are_compared_one_by_one() -> None:
    noisy = PICTURES.clone()
    noisy[1] += 0.1 * unit_normal("noise", noisy[1].shape)
    distance = FeatureDistance(Edges())(PICTURES, noisy)
    assert distance[1] > 0
    assert distance[[0, 2]].tolist() == [0, 0]


def test_a_file_is_the_network_for_pictures_of_any_size(tmp_path: Path) -> None:
    loaded = load_features(exported(Edges(), tmp_path / "edges.pt2"))
    for pictures in (PICTURES, PICTURES[:1, :, :40, :24]):
        other = (pictures + 0.1).requires_grad_()
        distance = loaded(pictures, other)
        torch.testing.assert_close(distance, FeatureDistance(Edges())(pictures, other))
        distance.sum().backward()
        assert other.grad is not None
        assert other.grad.any()


class OneTensor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class FixedSize(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]


def test_other_files_are_refused_with_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt2: no such file; give one that"):
        load_features(tmp_path / "nowhere.pt2")
    text = tmp_path / "text.pt2"
    text.write_text("text")
    with pytest.raises(ValueError, match=r"text\.pt2: not a file of torch\.export\.save"):
        load_features(text)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "weights.pt2")
    with pytest.raises(ValueError, match=r"weights\.pt2: not a file of torch\.export\.save"):
        load_features(tmp_path / "weights.pt2")
    with pytest.raises(ValueError, match=r"one\.pt2: must take pictures .* it returns no list"):
        load_features(exported(OneTensor(), tmp_path / "one.pt2"))
    fixed = torch.export.export(FixedSize(), (torch.zeros(1, 3, 32, 32),))
    torch.export.save(fixed, tmp_path / "fixed.pt2")
    with pytest.raises(ValueError, match=r"fixed\.pt2: must take pictures \[N, 3, H, W\] of any"):
        load_features(tmp_path / "fixed.pt2")
    large = exported(Edges(), tmp_path / "large.pt2", Dim.DYNAMIC(min=48))
    with pytest.raises(ValueError, match=r"large\.pt2: must take .* any H and W from 32 on"):
        load_features(large)
