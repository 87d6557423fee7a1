"""Whole trainings in this process: their outputs, how they resume, and what they refuse."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vidtok
from pipeline.decode.child.fork_server import fork_server
from pipeline.errors import ConfigError, Diverged, PipelineError
from pipeline.training.clips import TrainingClips
from pipeline.training.config import TrainConfig
from pipeline.training.launch import launch
from pipeline.training.stage import Rank, train_stages
from tests.assets import HIKER
from tests.pipeline.training.runs import (
    BROKEN,
    FSQ,
    HELD_OUT,
    HIGH,
    KL,
    KL_V1_1,
    LOW,
    SMALL,
    interrupt_at,
    measured,
    rows,
    training,
)
from tests.vidtok.small import TWO_LEVELS
from tests.vidtok.training.networks import Edges, exported
from vidtok.presets import PRESETS


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, config in SMALL.items():
            patch.setitem(PRESETS, name, replace(config, **TWO_LEVELS))
        yield


@pytest.fixture
def no_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the picture of a run, which takes as long as five of its steps."""
    monkeypatch.setattr("pipeline.training.run_log.curve_png", lambda _: None)


def run(config: TrainConfig) -> list[str]:
    lines: list[str] = []
    train_stages(config, Rank(), lines.append)
    return lines


def one_stage(output: Path, **changes: Any) -> TrainConfig:
    return training(output, **({"model": KL, "stages": [LOW]} | changes))


@contextmanager
def ending_its_children() -> Iterator[None]:
    fork_server()  # the decoders of a process share it, so it outlives each of them
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    started = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
    assert psutil.wait_procs(started, timeout=60)[1] == []


@pytest.fixture
def no_children_left() -> Iterator[None]:
    with ending_its_children():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, list[str]]:
    """A run of two stages from start to end, and its lines."""
    config = training(tmp_path_factory.mktemp("whole"), model=FSQ, validation=HELD_OUT)
    with ending_its_children():
        return config, run(config)


@pytest.mark.slow
def test_a_whole_run(whole: tuple[TrainConfig, list[str]]) -> None:
    config, lines = whole
    tmp_path = Path(config.output)
    assert lines[0].startswith("low: 0 of 8 batches done; perceptual term: structural")
    assert not torch.backends.cudnn.allow_tf32, "float32 means float32"

    low = tmp_path / "1-low"
    [first, *notes] = rows(tmp_path, of="note")
    assert first["perceptual"] == "structural (edges and SSIM; not LPIPS)"
    assert TrainConfig.model_validate(first["config"]) == config
    # The broken video is passed over, and named at the end.
    assert [(note["step"], note["why"].partition(":")[0]) for note in notes] == [(8, "not_a_video")]
    assert notes[0]["skipped"].endswith(BROKEN.name)
    # Every three batches, and at checkpoints.
    assert [row["step"] for row in rows(tmp_path, of="train")] == [3, 4, 6, 8]
    assert [row["step"] for row in rows(tmp_path, of="held_out")] == [0, 5, 8]
    assert [row["step"] for row in rows(tmp_path, "2-high", of="train")] == [3]
    held_out = rows(tmp_path, of="held_out")[0]
    assert set(held_out) == {"step", "of", "psnr", "ssim", "levels_used", "code_bits"}
    assert "adversarial" not in rows(tmp_path, of="train")[1]
    assert "hinge" in rows(tmp_path, of="train")[2]

    assert {path.name for path in low.iterdir()} == {
        "best.safetensors", "checkpoints", "curve.png", "metrics.jsonl", "model.safetensors",
        "samples", "tensorboard",
    }  # fmt: skip
    assert {path.name for path in (low / "checkpoints").iterdir()} == {"00000004.pt"}
    sample = Image.open(io.BytesIO((low / "samples/00000008.png").read_bytes()))
    assert sample.width >= 5 * 32
    assert sample.height >= 2 * 32

    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("1-low", "2-high"))
    assert all(one[name].equal(two[name]) for name in one if name.startswith("encoder."))
    assert not any(one[name].equal(two[name]) for name in one if name.startswith("decoder."))
    assert vidtok.load(tmp_path / "2-high/model.safetensors").config == PRESETS[FSQ]

    # The averaged weights are what is measured and what is kept.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(config) == ["low: complete", "high: complete"]
    gone = {"perceptual": "lpips", "vgg16": "nowhere.pth"}
    lacking = training(Path(config.output), stages=[LOW, {**HIGH, "objective": gone}])
    assert run(lacking) == ["low: complete", "high: complete"], "it needs no network any more"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_losses(
    whole: tuple[TrainConfig, list[str]], tmp_path: Path
) -> None:
    cut = training(tmp_path, model=FSQ, validation=HELD_OUT)
    for text in ("low 3/8", "low 6/8"):  # before the checkpoint and behind it
        with pytest.raises(KeyboardInterrupt):
            train_stages(cut, Rank(), interrupt_at(text))
    assert run(cut)[0].startswith("low: 4 of 8 batches done")
    outputs = Path(whole[0].output), tmp_path
    assert measured(outputs[0]) == measured(outputs[1])
    for name in ("2-high/model.safetensors", "1-low/best.safetensors"):
        ends = [load_file(output / name) for output in outputs]
        assert all(ends[0][tensor].equal(ends[1][tensor]) for tensor in ends[0])


@pytest.mark.usefixtures("no_curve")
def test_prefixes_are_learned_and_decoded_after_a_kill_as_without_it(tmp_path: Path) -> None:
    low = {**LOW, "steps": 4, "nested": [2, 6], "objective": HIGH["objective"]}
    high = {**HIGH, "nested": [4, 6], "steps": 1}
    whole = training(tmp_path / "whole", model=FSQ, stages=[low], checkpoint_every=2)
    cut = training(tmp_path / "cut", model=FSQ, stages=[low, high], checkpoint_every=2)
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        train_stages(cut, Rank(), interrupt_at("low 3/4"))
    assert run(cut)[0].startswith("low: 2 of 4 batches done")
    outputs = tmp_path / "whole", tmp_path / "cut"
    assert rows(outputs[0], of="train") == rows(outputs[1], of="train")
    for end in (".safetensors", ".channels.safetensors"):
        ends = [load_file(output / f"1-low/model{end}") for output in outputs]
        assert all(ends[0][tensor].equal(ends[1][tensor]) for tensor in ends[0])

    one, two = (
        vidtok.load(outputs[1] / name / "model.safetensors") for name in ("1-low", "2-high")
    )
    frames = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    indices = two.encode(frames).indices
    assert indices is not None
    assert torch.equal(indices, one.encode(frames).indices)
    prefixes = indices % 8**4  # a random start has the natural order
    assert two.decode_indices(prefixes, channels=4).shape == frames.shape


@pytest.mark.usefixtures("no_curve")
def test_a_v1_1_network_continues_a_v1_0_one(tmp_path: Path) -> None:
    high = {**HIGH, "model": KL_V1_1, "clips": {**LOW["clips"], "frames": 7}}
    run(training(tmp_path, model=KL, stages=[{**LOW, "steps": 1}, high]))
    names = ("1-low", "2-high")
    models = [vidtok.load(tmp_path / name / "model.safetensors") for name in names]
    assert [model.config.network for model in models] == ["causal_v1_0", "causal_v1_1"]
    one, two = (model.state_dict() for model in models)
    assert all(one[name].equal(two[name]) for name in one if name.startswith("encoder."))


@pytest.mark.usefixtures("no_curve")
def test_weights_that_are_given_are_the_start(tmp_path: Path) -> None:
    given = tmp_path / "given.safetensors"
    start = vidtok.build(KL, seed=7)
    vidtok.checkpoint.save(start, given)
    stage = {**LOW, "steps": 1, "lr": 0.0}
    run(one_stage(tmp_path / "out", weights=str(given), stages=[stage]))
    end = load_file(tmp_path / "out/1-low/model.safetensors")
    assert all(end[name].equal(tensor) for name, tensor in start.state_dict().items())

    with pytest.raises(ConfigError, match=f"given.safetensors: has the tensors of {KL}, not of"):
        run(one_stage(tmp_path / "other", weights=str(given), model=FSQ))
    assert not (tmp_path / "other").exists()


def test_an_error_of_the_program_in_a_loader_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: TrainingClips) -> NoReturn:
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal …")

    monkeypatch.setattr(TrainingClips, "__next__", fail)
    with pytest.raises(RuntimeError, match=r"^Caught RuntimeError in DataLoader"):
        run(one_stage(tmp_path))


def test_paths_are_those_of_the_command_on_every_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_another_folder(work: Callable[[Rank, Any], None], tell: Any, **_: Any) -> None:
        monkeypatch.chdir("/")
        work(Rank(), tell)

    monkeypatch.setattr("pipeline.training.launch.run_ranks", in_another_folder)
    monkeypatch.chdir(tmp_path)
    lacking = {**HIGH, "objective": {"perceptual": "lpips", "vgg16": "vgg16.pth"}}
    with pytest.raises(ConfigError, match=rf"perceptual = lpips: .*{tmp_path}/vgg16\.pth"):
        launch(training(tmp_path / "out", workers=2, stages=[LOW, lacking]), print)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_curve")
def test_held_out_videos_that_are_trained_on_are_named(tmp_path: Path) -> None:
    stage = {**LOW, "steps": 1}
    same = {**HELD_OUT, "uri": [str(HIKER.path.parent / "h*.mp4")]}
    lines = run(one_stage(tmp_path / "same", stages=[stage], validation=same))
    [line] = [line for line in lines if "source.uri" in line]
    assert line.startswith("low: validation.uri: 1 of its files are in source.uri, too, for")
    assert str(HIKER.path) in line
    others = run(one_stage(tmp_path / "others", stages=[stage], validation=HELD_OUT))
    assert not [line for line in others if "source.uri" in line]


@pytest.mark.usefixtures("no_curve")
def test_a_loader_that_is_killed_is_one_line(tmp_path: Path) -> None:
    def tell(line: str) -> None:
        if line.startswith("low "):
            for server in psutil.Process().children():
                if "multiprocessing.forkserver" in " ".join(server.cmdline()):
                    for loader in server.children():
                        loader.kill()

    config = one_stage(tmp_path, stages=[{**LOW, "steps": 100}], loaders=1)
    with pytest.raises(PipelineError, match=r"^a loader ended: .*; if the m"):
        train_stages(config, Rank(), tell)


def test_what_a_later_stage_lacks_ends_the_run_at_its_start(tmp_path: Path) -> None:
    for terms, says in (
        ({"perceptual": "lpips", "vgg16": "nowhere.pth"}, "perceptual = lpips: .*nowhere.pth"),
        ({"perceptual": "features", "features": "no.pt2"}, "perceptual = features: no.pt2: no su"),
    ):
        with pytest.raises(ConfigError, match=says):
            run(training(tmp_path / "out", stages=[LOW, {**HIGH, "objective": terms}]))
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"source": {"uri": "nowhere/*.mp4"}}, "nowhere"),
        ({"source": {"uri": str(BROKEN)}}, "none of 1 sources has a readable frame; .*not_a_video"),
        ({"validation": {"uri": str(BROKEN)}}, "held-out video text.mp4: not_a_video"),
        (
            {"stages": [{**LOW, "objective": {"perceptual": "lpips", "vgg16": "nowhere.pth"}}]},
            "perceptual = lpips: .*nowhere.pth",
        ),
        (
            {"stages": [{**LOW, "objective": {"perceptual": "features", "features": "no.pt2"}}]},
            "perceptual = features: no.pt2: no such file",
        ),
        ({"validation": {**HELD_OUT, "best_by": "lpips"}}, "validation.best_by = lpips: .*VGG16"),
        ({"weights": "nowhere.ckpt"}, "weights = nowhere.ckpt: "),
    ],
)
@pytest.mark.usefixtures("no_children_left")
def test_what_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=says):
        run(one_stage(tmp_path / "out", **changes))
    assert not (tmp_path / "out/1-low/metrics.jsonl").exists()


@pytest.mark.usefixtures("no_curve")
def test_a_stand_in_for_lpips_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    stage = {**LOW, "steps": 1, "objective": {"perceptual": "auto"}}
    lines = run(one_stage(tmp_path, stages=[stage]))
    assert "perceptual term: structural (edges and SSIM; no LPIPS: " in lines[0]
    assert rows(tmp_path, of="note")[0]["perceptual"] == lines[0].partition("term: ")[2]


@pytest.mark.usefixtures("no_curve")
def test_features_of_a_given_network_are_a_perceptual_term(tmp_path: Path) -> None:
    file = str(exported(Edges(), tmp_path / "edges.pt2"))
    objective = {"perceptual": "features", "features": file, "discriminator_start": 0}
    lines = run(one_stage(tmp_path, stages=[{**LOW, "steps": 2, "objective": objective}]))
    assert lines[0].endswith(f"perceptual term: features of {file}")
    [line] = [row for row in rows(tmp_path, of="train") if row["step"] == 2]
    assert line["perceptual"] > 0
    assert line["adversarial"] != 0


@pytest.mark.usefixtures("no_curve")
def test_checkpoints_of_other_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_stages(one_stage(tmp_path), Rank(), interrupt_at("low 6/8"))
    given = tmp_path / "given.safetensors"
    vidtok.checkpoint.save(vidtok.build(KL, seed=7), given)
    for changes, says in (
        ({"model": FSQ}, "holds checkpoints of another model than small_fsq; continue"),
        ({"model": KL_V1_1}, "holds checkpoints of another model than small_kl_v1_1; continue"),
        ({"stages": [{**LOW, "steps": 3}]}, "holds a checkpoint of batch 4, and steps = 3; set"),
        ({"stages": [{**LOW, "objective": HIGH["objective"]}]}, "of another network, objective"),
        ({"source": {"uri": str(HIKER.path)}}, "videos = "),
        (
            {"seed": 1},
            "of a training that began with other weights; continue with the same weights",
        ),
        ({"weights": str(given)}, "holds checkpoints of a training that began with other weights;"),
    ):
        with pytest.raises(ConfigError, match=says):
            run(one_stage(tmp_path, **changes))
    shorter = one_stage(tmp_path, stages=[{**LOW, "steps": 5}])
    assert run(shorter)[0].startswith("low: 4 of 5 batches done")


@pytest.mark.usefixtures("no_curve")
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lr": 1e30}, "low: batch 6: the loss or its gradient is not finite; lower lr, and run"),
        ({"lr": 1e39, "steps": 5}, "low: batch 5: the weights or their optimizer's state are not"),
    ],
)
def test_a_run_that_diverges_ends_with_its_last_checkpoint(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train_stages(one_stage(tmp_path), Rank(), interrupt_at("low 6/8"))
    with pytest.raises(Diverged, match=says):
        run(one_stage(tmp_path, stages=[{**LOW, **changes}]))
    folder = tmp_path / "1-low"
    assert [file.name for file in (folder / "checkpoints").iterdir()] == ["00000004.pt"]
    assert not (folder / "model.safetensors").exists()
    assert "NaN" not in (folder / "metrics.jsonl").read_text()
