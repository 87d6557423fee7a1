from math import nan
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import vidtok
from pipeline.decode import ClipRule, Decoder
from pipeline.errors import ConfigError, Diverged
from pipeline.records import Sample
from pipeline.storage.store import Store
from pipeline.training.validation import BEST, BestWeights, held_out_clips, validate
from tests.assets import BIKES, ONE_FRAME, VIDEOS
from tests.pipeline.training.runs import FSQ, KL, SMALL
from tests.pipeline.training.sources import source
from vidtok.channels import ChannelOrder, Fill
from vidtok.lpips import LPIPS


def test_held_out_clips_are_those_of_the_corpus_job():
    config = source(uri=[str(BIKES.path), str(ONE_FRAME.path)], short_side=48, min_scale=0.5)
    (name, clip), (still_name, still) = held_out_clips(config, fps=8)
    assert name.endswith("/bikes.mp4")
    assert still_name.endswith("/one_frame.mp4")
    assert (still == still[0]).all()
    assert still.shape == (5, 24, 24, 3)
    with Decoder(ClipRule(frames=5, height=24, width=24, fps=8, short="drop")) as decoder:
        video = Sample(key="bikes", video=str(BIKES.path), video_name="bikes.mp4")
        _, frames = next(decoder.decode(video, "u"))
    assert torch.equal(clip, torch.from_numpy(frames))


def test_a_broken_held_out_video_is_named():
    broken = [str(VIDEOS / "broken" / name) for name in ("text.mp4", "corrupted.mp4")]
    with pytest.raises(ConfigError, match=r"held-out video text.mp4: not_a_video: .* to exclude"):
        held_out_clips(source(uri=broken), fps=None)
    # Its first clip ends before the damage.
    (good,) = held_out_clips(source(uri=broken, exclude="text.mp4"), fps=None)
    assert good[1].shape == (5, 24, 24, 3)


CLIPS = [("a", torch.zeros(5, 32, 32, 3, dtype=torch.uint8)), ("b", torch.zeros(5, 32, 32, 3))]


def about(folder: Path) -> dict[str, str]:
    with safe_open(folder / BEST, framework="pt") as file:
        return {name: text for name, text in file.metadata().items() if name.startswith("best")}


@pytest.mark.parametrize(
    ("by", "scores", "best"), [("psnr", [20.0, 21.5, 21.5, 19.0], 1), ("lpips", [0.3, 0.4, 0.2], 2)]
)
def test_the_best_weights_are_kept_with_step_and_score(
    tmp_path: Path, by: str, scores: list[float], best: int
):
    models = [vidtok.Tokenizer(SMALL[KL]) for _ in scores]
    kept = BestWeights(Store(str(tmp_path)), by, CLIPS, resumed=False)
    for step, (model, score) in enumerate(zip(models, scores, strict=True)):
        kept.offer(model, step, {"psnr": 0.0, "lpips": 0.0, by: score})
    assert about(tmp_path)["best_step"] == str(best)
    assert float(about(tmp_path)["best_score"]) == scores[best]
    loaded = vidtok.load(tmp_path / BEST).state_dict()
    assert all(loaded[name].equal(t) for name, t in models[best].state_dict().items())


@pytest.mark.parametrize("by", ["psnr", "lpips"])
def test_weights_that_diverged_are_never_the_best(tmp_path: Path, by: str):
    kept = BestWeights(Store(str(tmp_path)), by, CLIPS, resumed=False)
    model = vidtok.Tokenizer(SMALL[KL])
    offered = [kept.offer(model, step, {by: score}) for step, score in enumerate((nan, 1.0, nan))]
    assert offered == [False, True, False]
    assert about(tmp_path)["best_step"] == "1"


@pytest.mark.parametrize("network", [FSQ, KL])
def test_weights_that_are_not_finite_are_named(network: str):
    model = vidtok.Tokenizer(SMALL[network]).eval()
    for weight in model.parameters():
        weight.data.fill_(nan)
    with pytest.raises(Diverged, match="held-out clip a: its latent is not finite"):
        validate(model, CLIPS)


def test_a_run_that_resumes_compares_with_the_best_before(tmp_path: Path):
    store, model = Store(str(tmp_path)), vidtok.Tokenizer(SMALL[KL])
    BestWeights(store, "psnr", CLIPS, resumed=False).offer(model, 5, {"psnr": 20.0})
    assert not BestWeights(store, "psnr", CLIPS, resumed=True).offer(model, 9, {"psnr": 19.0})
    assert about(tmp_path)["best_step"] == "5"
    # On other clips, by another score, or from the start there is no best yet.
    for by, clips, resumed in (
        ("psnr", CLIPS[:1], True),
        ("psnr", [(name, frames + 1) for name, frames in CLIPS], True),
        ("ssim", CLIPS, True),
        ("psnr", CLIPS, False),
    ):
        again = BestWeights(store, by, clips, resumed=resumed)
        assert again.offer(model, 9, {"psnr": 19.0, "ssim": 0.1})


def test_prefixes_of_a_tokenizer_with_an_order_of_channels_are_measured():
    model = vidtok.Tokenizer(SMALL[FSQ]).eval()
    clips = [(name, frames.byte()) for name, frames in CLIPS[:1]]
    plain, _ = validate(model, clips)
    fills = {k: Fill(torch.zeros(6 - k, k, 1, 1, 1), torch.zeros(6 - k)) for k in (2, 4)}
    model.channels = ChannelOrder((8,) * 6, tuple(range(6)), fills)
    scores, _ = validate(model, clips)
    assert {name for name in scores if name not in plain} == {"psnr_2", "psnr_4"}
    assert {name: scores[name] for name in plain} == plain
    assert len({scores["psnr"], scores["psnr_2"], scores["psnr_4"]}) == 3


def test_lpips_is_measured_where_its_network_is():
    model = vidtok.Tokenizer(SMALL[KL]).eval()
    clips = [(name, frames.byte()) for name, frames in CLIPS[:1]]
    scores, _ = validate(model, clips, LPIPS())
    assert set(scores) == {"psnr", "ssim", "lpips"}
