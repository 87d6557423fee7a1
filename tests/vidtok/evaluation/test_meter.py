import json
from random import Random

import pytest
import torch

from tests.vidtok.deterministic import synthetic_video, unit_normal
from vidtok.evaluation.fidelity import psnr, ssim
from vidtok.evaluation.meter import ClipScores, score_clip


def clips(batch: int, frames: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = synthetic_video(batch, frames, 16, 24, seed)
    return x, x + 0.2 * unit_normal("noise", x.shape, seed)


def scored(*videos: tuple[str, int, int]) -> ClipScores:
    """Return the scores of videos, each given by name, number of clips and seed."""
    scores = ClipScores()
    for name, batch, seed in videos:
        scores.add(name, score_clip(*clips(batch, 3 + seed, seed)))
    return scores


def test_frames_keep_their_clip_and_place() -> None:
    x, y = clips(2, 5, seed=0)
    scores = score_clip(x, y)
    assert set(scores) == {"psnr", "ssim"}
    frame = ((x[1:, :, 3] + 1) / 2, (y[1:, :, 3].clamp(-1, 1) + 1) / 2)
    torch.testing.assert_close(scores["psnr"][1, 3], psnr(*frame)[0])
    torch.testing.assert_close(scores["ssim"][1, 3], ssim(*frame)[0])
    assert scores["psnr"].shape == scores["ssim"].shape == (2, 5)


def test_reconstructions_are_clamped_first() -> None:
    x = torch.ones(1, 3, 2, 16, 16)
    torch.testing.assert_close(score_clip(x, 3 * x)["psnr"], torch.full((1, 2), 80.0))


def test_half_precision_is_compared_in_float32() -> None:
    x, y = clips(1, 2, seed=1)
    halves = score_clip(x.half(), y.half())
    assert halves["psnr"].dtype == torch.float32
    torch.testing.assert_close(halves["psnr"], score_clip(x, y)["psnr"], rtol=0, atol=0.02)


def test_lpips_gets_frames_in_its_own_range() -> None:
    x, y = clips(2, 3, seed=2)

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert a.shape == b.shape == (6, 3, 16, 24)
        assert a.min() < 0
        assert b.abs().max() <= 1
        return (a - b).abs().mean((1, 2, 3))

    scores = score_clip(x, y, distance)
    expected = (x - y.clamp(-1, 1)).abs().mean((1, 3, 4))
    torch.testing.assert_close(scores["lpips"], expected)


def test_the_mean_is_over_frames_not_over_videos() -> None:
    scores = ClipScores()
    scores.add("long", {"psnr": torch.full((3, 4), 20.0)})
    scores.add("short", {"psnr": torch.full((1, 4), 40.0)})
    assert scores.mean() == {"psnr": 25.0}
    assert scores.by_video() == {"long": {"psnr": 20.0}, "short": {"psnr": 40.0}}
    assert scores.frames() == 16


def test_no_bit_depends_on_how_clips_were_shared() -> None:
    videos = [(f"video-{i}", 1 + i % 3, i) for i in range(6)]
    whole = scored(*videos)
    shares = [scored(video) for video in videos]
    Random(0).shuffle(shares)
    merged = ClipScores()
    for share in shares:
        merged.merge(ClipScores.from_dict(json.loads(json.dumps(share.to_dict()))))
    assert merged.mean() == whole.mean()
    assert merged.by_video() == whole.by_video()
    assert list(merged.by_video()) == [name for name, _, _ in videos]


def test_nothing_scored_has_no_mean() -> None:
    empty = ClipScores()
    empty.merge(ClipScores())
    assert empty.mean() == empty.by_video() == {}


def test_unequal_clips_and_metrics_are_refused() -> None:
    x, y = clips(1, 3, seed=0)
    with pytest.raises(ValueError, match=r"two equal shapes \[B, 3, T, H, W\]"):
        score_clip(x, y[:, :, :2])
    scores = ClipScores()
    scores.add("a", {"psnr": torch.zeros(1, 2)})
    other = ClipScores()
    other.add("b", {"psnr": torch.zeros(1, 2), "lpips": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match=r"\['lpips', 'psnr'\] beside clips that have \['psnr'\]"):
        scores.merge(other)


def test_scores_keep_no_graph() -> None:
    x, y = clips(1, 2, seed=0)
    assert not score_clip(x, y.requires_grad_())["psnr"].requires_grad


def test_clips_without_a_metric_count_their_frames() -> None:
    scores = ClipScores()
    scores.add("a", {}, frames=5)
    other = ClipScores()
    other.add("b", {}, frames=4)
    scores.merge(other)
    assert (scores.frames(), scores.mean(), scores.by_video()) == (9, {}, {"a": {}, "b": {}})
