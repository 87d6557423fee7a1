"""Settings of a training: those of the release where nothing is said, and a line for each fault."""

from typing import Any

import pytest
import torch

from pipeline.config.loading import load
from pipeline.errors import ConfigError
from pipeline.training.checks import check_training
from pipeline.training.config import TrainConfig
from vidtok.training.objective import ObjectiveConfig
from vidtok.training.trainer import TrainerConfig

FSQ, KL = "vidtok_fsq_causal_488_32768", "vidtok_kl_causal_488_16chn"
LOW = "{name: low, steps: 8, batch: 2, clips: {frames: 17, height: 64, width: 64}}"
HIGH = "{name: high, steps: 4, batch: 1, clips: {frames: 17, height: 128, width: 128}}"


def read(*overrides: str, stages: str = f"[{LOW}, {HIGH}]") -> TrainConfig:
    run = [f"model={FSQ}", "output=out", "source.uri=videos", f"stages={stages}"]
    return load(None, [*run, *overrides], TrainConfig, check_training)


def faults(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(*overrides)
    return [line.removeprefix("command line: ") for line in str(caught.value).splitlines()]


def test_what_is_not_said_is_as_released() -> None:
    config = read()
    stage = config.stages[0]
    assert config.seed == 23
    assert config.workers == 0
    assert stage.clips.fps == [3.0]
    trainer = stage.trainer()
    assert trainer == TrainerConfig(steps=8)
    assert (trainer.lr, trainer.betas, trainer.schedule) == (1e-5, (0.9, 0.999), "constant")
    assert (trainer.clip_norm, trainer.precision, trainer.warmup_steps) == (20.0, "bf16", 0)
    assert stage.terms(kl=False) == ObjectiveConfig()
    released = ObjectiveConfig(
        pixel="l1",
        perceptual_weight=1.0,
        regularizer_weight=1.0,
        discriminator="2d",
        discriminator_start=10_001,
        adversarial_weight=0.2,
        lecam_weight=0.005,
    )
    assert stage.terms(kl=False) == released
    assert stage.terms(kl=True).regularizer_weight == 1e-6


def test_settings_reach_the_trainer_and_the_objective() -> None:
    config = read(
        "stages.1.train=decoder",
        "stages.1.lr=1",
        "stages.1.betas=[0, 0.5]",
        "stages.1.schedule=cosine",
        "stages.1.final_lr=0.5",
        "stages.1.warmup_steps=3",
        "stages.1.ema_decay=0.5",
        "stages.1.recompute=true",
        "stages.1.precision=tf32",
        "stages.1.batch=4",
        "stages.1.accumulate=2",
        "stages.1.objective={perceptual: none, discriminator: null, pixel: l2, kl_weight: 2}",
    )
    assert config.stages[1].trainer() == TrainerConfig(
        train="decoder",
        steps=4,
        lr=1.0,
        betas=(0.0, 0.5),
        warmup_steps=3,
        schedule="cosine",
        final_lr=0.5,
        ema_decay=0.5,
        recompute=True,
        precision="tf32",
        accumulate=2,
    )
    assert config.stages[1].terms(kl=True) == ObjectiveConfig(
        pixel="l2", perceptual_weight=0.0, regularizer_weight=2.0, discriminator=None
    )
    assert config.stages[0].trainer().lr == 1e-5


def test_logarithms_of_squared_differences() -> None:
    config = read("stages.0.objective={pixel: log_l2, perceptual: none}")
    assert config.stages[0].terms(kl=False).pixel == "log_l2"


def test_clips_and_held_out_clips() -> None:
    config = read(
        "source={uri: [a, b], exclude: c/*, max_video_mb: 5}",
        "validation={uri: d, height: 96, width: 32}",
        "keep_mb=7",
        "seed=3",
    )
    clips, held_out = config.clips(config.stages[1]), config.held_out(config.stages[1])
    assert (clips.uri, clips.exclude, clips.max_video_mb) == (["a", "b"], ["c/*"], 5)
    assert (clips.frames, clips.height, clips.keep_mb, clips.seed) == (17, 128, 7, 3)
    assert held_out is not None
    assert (held_out.uri, held_out.frames) == (["d"], 17)
    assert (held_out.height, held_out.width) == (96, 32)
    assert read().held_out(read().stages[0]) is None


def test_a_stage_s_model_is_that_of_the_stages_after_it() -> None:
    config = read(f"stages.1.model={FSQ}_v1_1", "stages.1.clips.frames=18")
    assert [config.model_of(stage) for stage in config.stages] == [FSQ, f"{FSQ}_v1_1"]
    assert [read().model_of(stage) for stage in read().stages] == [FSQ, FSQ]


def test_nothing_secret_is_public() -> None:
    options = "storage_options={key: word}"
    config = read(
        options, f"source.{options}", f"validation={{uri: v, {options[:15]}: {{k: word}}}}"
    )
    public = config.public()
    assert "word" not in str(public)
    assert public["source"]["storage_options"] == {"key": "…"}
    assert TrainConfig.model_validate(public).stages == config.stages


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model=vidtok_fsq", "model = vidtok_fsq: no model has this name; did you mean vidtok_"),
        ("stages.1.model=tiny", "stages.1.model = tiny: no model has this name"),
        (f"stages.1.model={KL}", f"stages.1.model = {KL}: must have the tensors of {FSQ}, the m"),
        ("stages.1.clips.frames=16", f"stages.1.clips.frames = 16: {FSQ} takes 1 + 4k frames; use"),
        ("stages.0.clips.height=60", f"stages.0.clips.height = 60: {FSQ} takes a multiple of 8"),
        ("stages.0.clips.width=24", "stages.0.clips = 24: the structural term needs sides of 28"),
        ("stages.1.name=low", "stages = ['low', 'low']: the names of stages must differ"),
        ("stages.1.name=A b", "stages.1.name = A b: must match ^[a-z0-9_-]+$"),
        ("stages=[]", "stages = []: list should have at least 1 item"),
        ("stages.0.steps=0", "stages.0.steps = 0: should be greater than 0"),
        ("stages.0.betas=[0.9, 1]", "stages.0.betas.1 = 1: should be less than 1"),
        ("stages.0.lr=.inf", "stages.0.lr = inf: should be a finite number"),
        ("stages.0.warmup_steps=8", "stages.0.warmup_steps = 8: must be less than steps = 8"),
        ("validation={uri: v, fps: 1001}", "validation.fps = 1001: should be less than or equal"),
        ("stages.0.clip_norm=0", "stages.0.clip_norm = 0: should be greater than 0"),
        ("stages.0.ema_decay=1", "stages.0.ema_decay = 1: should be less than 1"),
        ("stages.0.precision=fp16", "stages.0.precision = fp16: must be 'float32', 'tf32' or 'b"),
        ("stages.0.recompute=maybe", "stages.0.recompute = maybe: must be 'auto', True or False"),
        ("stages.0.accumulate=3", "stages.0.accumulate = 3: must divide batch = 2"),
        ("stages.0.nested=[2, 4]", "stages.0.nested = [2, 4]: must be in ascending order and"),
        ("stages.1.nested=[3, 2, 5]", "stages.1.nested = [3, 2, 5]: must be in ascending order"),
        ("stages.0.nested=[0, 5]", "stages.0.nested.0 = 0: should be greater than 0"),
        ("stages.0.nested=4", "stages.0.nested = 4: should be a valid list"),
        ("stages.0.objective.perceptual=vgg", "stages.0.objective.perceptual = vgg: must be 'au"),
        ("stages.0.objective.perceptual=features", "stages.0.objective.features: must be a file"),
        ("stages.0.objective.features=net.pt2", "stages.0.objective.features = net.pt2: must be a"),
        ("validation={uri: v, height: 50, width: 64}", f"validation.height = 50: {FSQ} takes a"),
        ("validation={uri: v, height: 8}", "validation.height = 8: SSIM needs at least 11 pixels"),
        ("min_workers=2", "min_workers = 2: must be at most workers = 0"),
        ("validation={uri: v, best_by: mse}", "validation.best_by = mse: must be 'psnr', 'ssim'"),
        ("weights=nowhere.ckpt", "weights = nowhere.ckpt: no such file"),
        ("weights=null", "weights = None: should be a valid string"),
        ("worker=2", "worker: no such key; did you mean workers?"),
    ],
)  # fmt: skip
def test_wrong_values_are_one_line(override: str, says: str) -> None:
    [line] = faults(override)
    assert line.startswith(says)


def test_muon_is_refused_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("stages.0.optimizer=muon").stages[0].trainer().optimizer == "muon"
    monkeypatch.delattr(torch.optim, "Muon")
    [line] = faults("stages.0.optimizer=muon")
    assert line.startswith("stages.0.optimizer = muon: needs torch 2.10 or newer, and this is ")
    assert read().stages[0].optimizer == "adam"


def test_prefixes_are_of_fsq_tokenizers() -> None:
    assert read("stages.0.nested=[2, 5]").stages[0].trainer().nested == [2, 5]
    [line] = faults(f"model={KL}", "stages.0.nested=[2, 5]")
    assert line == (
        "stages.0.nested = [2, 5]: only FSQ tokenizers have prefixes; leave the setting out"
    )


def test_small_pictures_are_for_those_who_need_no_large_ones() -> None:
    small: list[Any] = ["stages.0.clips.height=16", "stages.0.clips.width=16"]
    says = [line.partition(": the ")[2] for line in faults(*small)]
    assert says == [
        "structural term needs sides of 28 pixels or more",
        "2d discriminator needs sides of 24 pixels or more",
    ]
    read(*small, "stages.0.objective={perceptual: none, discriminator: 3d}")
    read(*small, "stages.0.objective={perceptual_weight: 0, discriminator: null}")


def test_the_3d_discriminator_normalizes_more_than_one_value() -> None:
    terms = "stages.1.objective={perceptual: none, discriminator: 3d}"
    one = [terms, "stages.1.clips={frames: 1, height: 8, width: 8}"]
    [line] = faults(*one)
    assert line == (
        "stages.1.clips = 1×8×8: the 3d discriminator needs more than one patch of 4×8×8 pixels in"
        " a batch; give larger clips"
    )
    faults(*one, "stages.1.batch=2", "stages.1.accumulate=2")
    for more in ("batch=2", "clips.frames=5", "clips.width=16"):
        read(*one, f"stages.1.{more}")


def test_the_size_of_a_stage_is_too_small_for_its_validation() -> None:
    small = "stages.0.clips={frames: 17, height: 8, width: 32}"
    terms = "stages.0.objective={perceptual_weight: 0, discriminator: 3d}"
    read(small, terms)
    [line] = faults(small, terms, "validation={uri: v}")
    assert line == "validation.height = 8: SSIM needs at least 11 pixels; give a larger one"
