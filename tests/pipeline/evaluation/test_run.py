"""Whole evaluations: what they write, what they leave out and say so, with one worker or two."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import vidtok
from pipeline.commands import main
from pipeline.config.loading import load
from pipeline.errors import ConfigError
from pipeline.evaluation import measures
from pipeline.evaluation.checks import check_evaluation
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.lineup import line_up
from pipeline.evaluation.run import Evaluation, run_evaluation
from pipeline.sources.planning import plan_units
from tests.assets import BIKES, HIKER, ONE_FRAME, VIDEOS
from tests.pipeline.tars import make_tar
from vidtok import TokenizerConfig
from vidtok.checkpoint import save
from vidtok.presets import PRESETS

BROKEN = VIDEOS / "broken/truncated_half.mp4"
SMALL = ["clip={frames: 9, height: 32, width: 40, fps: 8, per_video: 1}", "threads=1"]
FSQ, KL = "vidtok_fsq_causal_488_262144_tiny", "vidtok_kl_causal_488_8chn_tiny"
TINY = f"[{FSQ}, {KL}]"


def config(output: Path, *overrides: str) -> EvaluationConfig:
    source = f"source=[{BIKES.path}, {BROKEN}, {HIKER.path}]"
    settings = [source, f"tokenizers={TINY}", f"output={output}", *SMALL, *overrides]
    return load(None, settings, EvaluationConfig, check_evaluation)


@pytest.fixture(scope="module", autouse=True)
def _no_weights_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Networks in this machine's caches do not decide what a test finds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def done(output: Path) -> Evaluation:
    # Each candidate goes through the metrics' networks; of three codecs, two are enough here.
    return run_evaluation(config(output, "baselines=[shrink, h264, av1]"))


def rows(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in evaluation.results["candidates"]}


def test_every_candidate_has_a_row_over_the_same_clips(done: Evaluation) -> None:
    found = rows(done)
    fsq, kl = "fsq_causal_488_262144_tiny", "kl_causal_488_8chn_tiny"
    codecs = [f"{codec} as {n}" for codec in ("h264", "av1") for n in (fsq, kl)]
    assert list(found) == [fsq, kl, "shrink 4x8x8, 9 frames", *codecs]
    assert {(row["clips"], row["frames"]) for row in found.values()} == {(2, 18)}
    assert found[fsq]["bits_per_pixel"] == 3 * 4 * 5 * 18 / (9 * 32 * 40)
    assert found[kl]["bits_per_pixel"] == 3 * 4 * 5 * 8 * 16 / (9 * 32 * 40)
    assert found[fsq]["codebook"]["tokens"] == 2 * 3 * 4 * 5
    assert "codebook" not in found[kl]
    for row in found.values():
        assert 5 < row["psnr"] < 80
        assert -1 <= row["ssim"] <= 1
        fixed = row["bits_per_pixel"]
        assert (row["coded_bits_per_pixel"] == fixed) == (" as " in row["name"]), "packets"
        assert 0 < row["coded_bits_per_pixel"] < fixed * 1.05
        assert 0 <= row["vmaf"] <= 100
        assert row["fd_transnetv2"] >= 0
        assert row["weights"] is None or len(row["weights"]) == 32


def test_by_default_each_codec_is_compared_with_each_tokenizer(tmp_path: Path) -> None:
    fsq, kl = "fsq_causal_488_262144_tiny", "kl_causal_488_8chn_tiny"
    codecs = [f"{codec} as {n}" for codec in ("h264", "hevc", "av1") for n in (fsq, kl)]
    lineup = line_up(config(tmp_path), "cpu")
    names = [fsq, kl, "shrink 4x8x8, 9 frames", *codecs]
    assert [description.name for description in lineup.descriptions] == names
    assert [candidate.name for candidate in lineup.groups[9]] == names
    assert not lineup.absent


def test_a_total_is_the_mean_over_frames(done: Evaluation) -> None:
    for name, row in rows(done).items():
        videos = [r for r in done.results["videos"] if r["candidate"] == name]
        assert len(videos) == 2
        mean = sum(r["psnr"] * r["frames"] for r in videos) / row["frames"]
        assert row["psnr"] == pytest.approx(mean)


def test_what_is_missing_is_said_and_not_replaced(done: Evaluation) -> None:
    assert set(done.results["absent"]) == {"lpips", "fvd"}
    assert all(row["lpips"] is None and row["fvd"] is None for row in rows(done).values())
    text = "\n".join(done.lines)
    assert "- fvd: n/a: I3D for FVD: " in text
    assert "get it from" in text
    assert "- lpips: n/a: " in text


def test_a_broken_video_is_listed_and_never_counted(done: Evaluation) -> None:
    [record] = done.results["broken"]
    assert (record["key"], record["reason"]) == (BROKEN.name, "truncated")
    assert {row["video"] for row in done.results["videos"]} == {BIKES.name, HIKER.name}
    assert any(f"not counted: {BROKEN.name}: decode: truncated" in line for line in done.lines)


def test_the_output_folder(done: Evaluation, output: Path) -> None:
    assert json.loads((output / "scores.json").read_text()) == done.results
    table = (output / "table.md").read_text()
    assert table.startswith("2 videos at 32×40, 8 frames per second\n")
    assert "| PSNR ↑ |" in table
    assert "| bits/pixel |  coded |" in table
    assert "    n/a |" in table
    videos = list(csv.DictReader(io.StringIO((output / "videos.csv").read_text())))
    assert len(videos) == 2 * 7
    assert float(videos[0]["psnr"]) == done.results["videos"][0]["psnr"]
    pictures = sorted(path.name for path in (output / "pictures").iterdir())
    assert pictures == ["bikes.png", "hiker_tiny.png"]
    for name in ("pictures/bikes.png", "rate_distortion.png"):
        with Image.open(output / name) as picture:
            assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 10


def test_settings_and_versions_are_kept(done: Evaluation) -> None:
    assert EvaluationConfig.model_validate(done.results["settings"]).clip.frames == 9
    assert done.results["versions"]["vmaf"].startswith("vmaf_v0.6.1, libvmaf ")
    assert done.results["versions"]["torch"] == torch.__version__


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.slow
def test_two_workers_find_the_same_numbers(done: Evaluation, tmp_path: Path) -> None:
    tokenizer = "tokenizers=[vidtok_fsq_causal_488_262144_tiny]"
    two = run_evaluation(config(tmp_path, "workers=2", tokenizer, "baselines=[shrink, h264]"))
    names = [row["name"] for row in two.results["candidates"]]
    assert len(names) == 3
    for key, name in (("candidates", "name"), ("videos", "candidate")):
        assert two.results[key] == [row for row in done.results[key] if row[name] in names]
    assert two.results["broken"] == done.results["broken"]
    # The reasons name folders, and the processes of a cluster that runs already have their own.
    assert two.results["absent"].keys() == done.results["absent"].keys()
    assert (tmp_path / "pictures/bikes.png").is_file()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_what_is_wrong_with_a_file_is_said_by_workers_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (weights := tmp_path / "w.safetensors").write_bytes(b"\0" * 64)
    tokenizer = f"tokenizers=[{{name: t, model: {KL}, weights: {weights}}}]"
    settings = [f"source={HIKER.path}", tokenizer, f"output={tmp_path / 'out'}", *SMALL]
    assert main(["evaluate", *settings, "workers=2"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ")
    assert f"{weights}: not a whole safetensors file" in said


def test_a_tar_is_read_and_excluded_files_are_not(tmp_path: Path) -> None:
    tar = tmp_path / "shard.tar"
    tar.write_bytes(make_tar([("a.mp4", HIKER.path.read_bytes()), ("b.mp4", b"no video")]))
    settings = config(
        tmp_path / "out",
        f"source={{uri: [{tar}, '{VIDEOS}/*.mp4'], exclude: ['{VIDEOS}/*i*.mp4']}}",
        "metrics=[psnr]",
        "baselines=[]",
        "pictures=0",
    )
    assert [unit.tar_uri for unit in plan_units(settings.source, single=True)] == [str(tar)]
    evaluation = run_evaluation(settings)
    assert [row["video"] for row in evaluation.results["videos"]] == ["a", "a"]
    assert [record["key"] for record in evaluation.results["broken"]] == ["b"]
    assert not (tmp_path / "out/pictures").exists()
    assert set(rows(evaluation)["kl_causal_488_8chn_tiny"]).isdisjoint({"ssim", "vmaf", "fvd"})


def test_excluding_everything_is_refused(tmp_path: Path) -> None:
    source = f"source={{uri: '{BIKES.path}', exclude: 'EXCLUDE'}}"
    with pytest.raises(ConfigError, match=r"source.exclude: excludes all sources"):
        run_evaluation(config(tmp_path, source.replace("EXCLUDE", str(BIKES.path))))
    kept = config(tmp_path, source.replace("EXCLUDE", "none.mp4")).source
    assert len(plan_units(kept, single=True)) == 1


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Narrow networks under the names of released ones, so that publications are found."""
    names = {
        "whole": "vidtok_fsq_causal_488_32768_v1_1",
        "clips": "vidtok_fsq_noncausal_488_262144",
    }
    for name in names.values():
        fields = PRESETS[name].to_dict() | {"ch": 2, "num_res_blocks": 1}
        monkeypatch.setitem(PRESETS, name, TokenizerConfig.from_dict(fields))
    return names


def test_a_protocol_gives_each_network_its_clips(models: dict[str, str], tmp_path: Path) -> None:
    evaluation = run_evaluation(
        config(
            tmp_path,
            f"source={HIKER.path}",
            f"tokenizers=[{{name: whole, model: {models['whole']}, weights: random}},"
            f" {{name: clips, model: {models['clips']}, weights: random}}]",
            "protocol=webvid-val",
            "clip={height: 32, width: 32}",
            "metrics=[psnr, ssim]",
            "baselines=[shrink, h264]",
        )
    )
    found = {row["clip_frames"]: row for row in evaluation.results["candidates"]}
    assert set(found) == {None, 16}
    assert (found[None]["clips"], found[None]["frames"]) == (1, 49)
    assert (found[16]["clips"], found[16]["frames"]) == (4, 64), (
        "the last clip is one frame, 16 times"
    )
    assert not evaluation.results["compares_with_published"]
    assert any("webvid-val with other settings" in line for line in evaluation.lines)


def test_published_results_stand_beside_ours(models: dict[str, str], tmp_path: Path) -> None:
    settings = load(
        None,
        [
            f"source={ONE_FRAME.path}",
            f"tokenizers=[{{name: clips, model: {models['clips']}, weights: random}}]",
            "protocol=mcl-jcv",
            f"output={tmp_path}",
            "metrics=[psnr, ssim, lpips]",
            "baselines=[]",
            "pictures=0",
        ],
        EvaluationConfig,
        check_evaluation,
    )
    evaluation = run_evaluation(settings)
    [row] = evaluation.results["candidates"]
    assert row["published"] == {"psnr": 30.78, "ssim": 0.889, "lpips": 0.091, "fvd": 132.1}
    table = "\n".join(evaluation.lines)
    assert "(30.78) |" in table
    assert "n/a (0.091) |" in table
    assert "in brackets: published results for mcl-jcv" in table


class TinyI3D(torch.nn.Module):
    """Called as the real one is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(
        self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool
    ) -> torch.Tensor:
        return x.mean(dim=[2, 3, 4]).repeat(1, 134)[:, :400] * self.weight


@pytest.mark.filterwarnings("ignore:`torch.jit.*is deprecated:DeprecationWarning")
def test_metrics_come_with_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class MeanError(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x - y).abs().mean((1, 2, 3))

    asked: list[Any] = []
    vgg16 = tmp_path / "vgg16.pth"
    vgg16.touch()
    torch.jit.save(torch.jit.script(TinyI3D()), str(tmp_path / "i3d.pt"))
    monkeypatch.setattr(measures, "load_lpips", lambda *paths: asked.append(paths) or MeanError())
    settings = ["metrics=[lpips, fvd]", "baselines=[shrink]", "pictures=0", f"source={HIKER.path}"]
    weights = f"metric_weights={{vgg16: {vgg16}, i3d: {tmp_path / 'i3d.pt'}}}"
    evaluation = run_evaluation(config(tmp_path / "out", *settings, weights))
    assert asked == [(vgg16, None)]
    assert evaluation.results["absent"] == {}
    for row in evaluation.results["candidates"]:
        assert row["lpips"] > 0
        assert row["fvd"] > 0
        assert row["fvd_note"] == (
            "1 samples in 400 dimensions: compare only at equal numbers of samples"
        )
    short = run_evaluation(config(tmp_path / "out", *settings, weights, "clip.frames=5"))
    assert "clips of 5 frames" in short.results["absent"]["fvd"]
    whole = [*settings, weights, "tokenizers=[vidtok_kl_causal_488_8chn_tiny_v1_1]"]
    whole += ["clip.chunk_frames=8", "clip.whole_videos=true"]
    one_chunk = run_evaluation(config(tmp_path / "out", *whole, "clip.fps=2"))
    for row in one_chunk.results["candidates"]:
        assert (row["frames"], row["fvd"], row["fvd_note"]) == (9, None, "no video has 16 frames")
    (tmp_path / "i3d.pt").write_bytes(b"garbage")
    with pytest.raises(ConfigError, match="metric_weights: fvd: cannot be loaded"):
        run_evaluation(config(tmp_path / "out", *settings, weights))


def test_no_metric_of_single_frames_is_needed(tmp_path: Path) -> None:
    settings = [f"source={HIKER.path}", f"tokenizers={FSQ}", "baselines=[]", "pictures=0"]
    evaluation = run_evaluation(config(tmp_path, *settings, "metrics=[codebook]"))
    [row] = evaluation.results["candidates"]
    assert (row["frames"], row["codebook"]["tokens"]) == (9, 3 * 4 * 5)
    [video] = evaluation.results["videos"]
    assert (video["frames"], "psnr" in video) == (9, False)


def test_no_picture_of_an_earlier_evaluation_stays(tmp_path: Path) -> None:
    settings = [f"tokenizers={FSQ}", "baselines=[]", "metrics=[psnr]"]
    run_evaluation(config(tmp_path, *settings, f"source={HIKER.path}"))
    assert (tmp_path / "pictures/hiker_tiny.png").is_file()
    run_evaluation(config(tmp_path, *settings, f"source={BROKEN}"))
    assert not list(tmp_path.rglob("*.png"))


def test_pictures_too_small_for_vmaf_have_no_vmaf(tmp_path: Path) -> None:
    settings = [f"source={HIKER.path}", f"tokenizers={FSQ}", "baselines=[]", "clip.height=16"]
    evaluation = run_evaluation(config(tmp_path, *settings, "metrics=[psnr, vmaf]"))
    assert evaluation.results["absent"] == {"vmaf": "sides of 16 pixels; VMAF needs 17 or more"}
    [row] = evaluation.results["candidates"]
    assert row["vmaf"] is None
    assert row["psnr"] > 5


@pytest.mark.parametrize("model", [FSQ, KL])
@pytest.mark.parametrize(("part", "what"), [("encoder", "latent"), ("decoder", "reconstruction")])
def test_values_that_are_not_finite_have_no_score(
    model: str, part: str, what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = vidtok.load(model)
    with torch.no_grad():
        next(p for n, p in network.named_parameters() if n.startswith(part)).fill_(float("nan"))
    save(network, weights := tmp_path / "nan.safetensors")
    tokenizer = f"tokenizers=[{{name: t, model: {model}, weights: {weights}}}]"
    settings = [f"source={HIKER.path}", tokenizer, f"output={tmp_path / 'out'}", *SMALL]
    assert main(["evaluate", *settings, "metrics=[psnr]", "baselines=[]"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"candidate t: values are not finite on {HIKER.name}/0: " in said
    assert what in said
    assert not (tmp_path / "out/scores.json").exists()


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"tokenizers={TINY}", f"output={tmp_path}", "metrics=[psnr]", "baselines=[]"]
    assert main(["evaluate", f"source={tmp_path}/none.mp4", *arguments]) == 2
    assert "source.uri: " in capsys.readouterr().err
    assert (
        main(["evaluate", f"source={BROKEN}", *arguments, "clip.height=16", "clip.width=16"]) == 1
    )
    assert "not counted: truncated_half.mp4" in capsys.readouterr().out
