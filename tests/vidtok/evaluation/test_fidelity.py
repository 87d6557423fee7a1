import json
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.vidtok.deterministic import synthetic_video, unit_normal
from tests.vidtok.goldens import FOLDER
from vidtok.evaluation.fidelity import psnr, ssim

GOLDENS = json.loads((FOLDER / "metrics.json").read_text())["cases"]


def size(case: dict) -> str:
    return "{height}x{width}".format(**case["video"])


def pair(video: dict[str, int]) -> tuple[Tensor, Tensor]:
    """Return the frames [N, 3, H, W] in [0, 1] that a golden is about, without and with noise."""
    x = (synthetic_video(**video) + 1) / 2
    y = (x + 0.05 * unit_normal("metric.noise", x.shape, video["seed"])).clamp(0, 1)
    return x.transpose(1, 2).flatten(0, 1), y.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("case", GOLDENS, ids=size)
def test_equals_the_reference(case: dict) -> None:
    x, y = pair(case["video"])
    assert psnr(x, y).mean().item() == pytest.approx(case["psnr"], abs=1e-5)
    # A variance is a difference of float32 means: depending on the processor it rounds by 4e-6.
    assert ssim(x, y).mean().item() == pytest.approx(case["ssim"], abs=1e-5)


@pytest.mark.parametrize("case", GOLDENS[:2], ids=size)
def test_equal_frames_score_best(case: dict) -> None:
    x, _ = pair(case["video"])
    torch.testing.assert_close(psnr(x, x), torch.full((len(x),), case["psnr_identical"]))
    torch.testing.assert_close(ssim(x, x), torch.ones(len(x)))


def test_every_frame_has_its_own_score() -> None:
    x, noisy = pair(GOLDENS[0]["video"])
    y = torch.cat([x[:1], noisy[1:]])
    for score in (psnr, ssim):
        alone = torch.cat([score(x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
        torch.testing.assert_close(score(x, y), alone)
        assert score(x, y)[0] > score(x, y)[1:].max()


def test_more_noise_scores_less() -> None:
    x, _ = pair(GOLDENS[0]["video"])
    noise = unit_normal("noise", x.shape)
    for score in (psnr, ssim):
        scores = [score(x, x + sigma * noise).mean() for sigma in (0.01, 0.03, 0.1, 0.3)]
        assert all(less > more for less, more in pairwise(scores))


def test_a_known_error_has_a_known_psnr() -> None:
    x = torch.full((2, 3, 16, 16), 0.5)
    torch.testing.assert_close(psnr(x, x + 0.1), torch.full((2,), 20.0), rtol=0, atol=1e-4)


def test_unequal_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 3, 16, 16\] and \[2, 3, 16, 16\]"):
        psnr(torch.zeros(1, 3, 16, 16), torch.zeros(2, 3, 16, 16))


def test_frames_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match=r"10×64: SSIM needs 11×11"):
        ssim(torch.zeros(1, 3, 10, 64), torch.zeros(1, 3, 10, 64))


def test_halves_are_pooled_to_the_even_factor() -> None:
    x = unit_normal("frame", (1, 1, 640, 640)).sigmoid()  # 640 / 256 = 2.5
    y = x + 0.1
    halves = (torch.nn.functional.avg_pool2d(frames, 2) for frames in (x, y))
    torch.testing.assert_close(ssim(x, y), ssim(*halves))
