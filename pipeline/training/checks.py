"""Rules between the settings of a training run, and between settings and models."""

from collections.abc import Iterator
from itertools import pairwise

import torch

import vidtok
from pipeline.config.job import RANDOM
from pipeline.config.loading import Fault
from pipeline.config.source import job_only_faults
from pipeline.tokenizers.checks import clip_faults, vidtok_faults
from pipeline.tokenizers.facts import vidtok_facts
from pipeline.training.config import StageConfig, TrainConfig
from vidtok.evaluation.fidelity import SHORTEST_SIDE as SSIM_SIDE
from vidtok.presets import named_config
from vidtok.training.muon import require_muon
from vidtok.training.perceptual import SHORTEST_SIDE
from vidtok.training.prefixes import require_sizes

_PATCH_SIDE = 24
"""Minimum side in pixels for which the 2-D discriminator, after three halvings, has a logit."""


def check_training(config: TrainConfig) -> list[Fault]:
    """Return the rules broken by a configuration whose fields are valid one by one."""
    faults = list(vidtok_faults(config.model, config.weights))
    for number, stage in enumerate(config.stages):
        if stage.model is not None:
            faults += vidtok_faults(stage.model, RANDOM, f"stages.{number}.")
    if faults:
        return faults
    names = [stage.name for stage in config.stages]
    if len(set(names)) < len(names):
        faults.append(Fault("stages", names, rule="the names of stages must differ"))
    if (least := config.min_workers) is not None and least > config.workers:
        rule = f"must be at most workers = {config.workers}"
        faults.append(Fault("min_workers", least, rule))
    for number, stage in enumerate(config.stages):
        faults += _stage_faults(config, stage, f"stages.{number}")
    faults += _later_models(config)
    faults += job_only_faults(config.source, "source")
    if config.validation is not None:
        faults += job_only_faults(config.validation, "validation")
    return [*faults, *_validation_faults(config), *dict.fromkeys(_small_validation(config))]


def _later_models(config: TrainConfig) -> Iterator[Fault]:
    """Yield the models that cannot begin with the weights of the stage before."""
    models = [config.model_of(stage) for stage in config.stages]
    for number, (before, model) in enumerate(pairwise(models), 1):
        if model != before and _shapes(model) != _shapes(before):
            rule = f"must have the tensors of {before}, the model of the stage before"
            yield Fault(f"stages.{number}.model", model, rule)


def _shapes(model: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: t.shape for name, t in vidtok.build(model).state_dict().items()}


def _stage_faults(config: TrainConfig, stage: StageConfig, where: str) -> Iterator[Fault]:
    clips, model = stage.clips, named_config(config.model_of(stage))
    shape = clips.frames, clips.height, clips.width
    yield from clip_faults(vidtok_facts(model), model.name, *shape, f"{where}.clips")
    if stage.batch % stage.accumulate:
        yield Fault(
            f"{where}.accumulate", stage.accumulate, rule=f"must divide batch = {stage.batch}"
        )
    if stage.warmup_steps >= stage.steps:
        rule = f"must be less than steps = {stage.steps}"
        yield Fault(f"{where}.warmup_steps", stage.warmup_steps, rule)
    if stage.optimizer == "muon":
        try:
            require_muon()
        except ValueError as error:
            yield Fault(f"{where}.optimizer", stage.optimizer, rule=str(error))
    if stage.nested is not None:
        try:
            require_sizes(stage.nested, model.fsq_levels)
        except ValueError as error:
            yield Fault(f"{where}.nested", stage.nested, rule=str(error))
    shorter = min(clips.height, clips.width)
    terms, least = stage.objective, {}
    if (terms.perceptual == "features") != (terms.features is not None):
        rule = "must be a file with perceptual: features, and null otherwise"
        yield Fault(f"{where}.objective.features", terms.features, rule=rule)
    if terms.perceptual in ("auto", "structural") and terms.perceptual_weight > 0:
        least["structural term"] = SHORTEST_SIDE
    if terms.discriminator == "2d":
        least["2d discriminator"] = _PATCH_SIDE
    if terms.discriminator == "3d" and _one_patch(stage):
        rule = "the 3d discriminator needs more than one patch of 4×8×8 pixels in a batch"
        yield Fault(f"{where}.clips", "×".join(map(str, shape)), rule, "give larger clips")
    for term, side in least.items():
        if shorter < side:
            rule = f"the {term} needs sides of {side} pixels or more"
            yield Fault(f"{where}.clips", shorter, rule)


def _one_patch(stage: StageConfig) -> bool:
    """Return whether BatchNorm in the 3-D discriminator has a single value a channel, and fails."""
    clips = stage.clips
    patches = (-(-clips.frames // 4)) * (-(-clips.height // 8)) * (-(-clips.width // 8))
    return stage.batch // stage.accumulate * patches == 1


def _validation_faults(config: TrainConfig) -> Iterator[Fault]:
    stage = config.stages[0]
    if held_out := config.held_out(stage):
        model = named_config(config.model_of(stage))
        shape = held_out.frames, held_out.height, held_out.width
        for fault in clip_faults(vidtok_facts(model), model.name, *shape, "validation"):
            side = fault.field.removeprefix("validation.")
            if getattr(config.validation, side, None) is not None:  # else it is the stage's
                yield fault


def _small_validation(config: TrainConfig) -> Iterator[Fault]:
    for stage in config.stages:
        if held_out := config.held_out(stage):
            for side in ("height", "width"):
                if (pixels := getattr(held_out, side)) < SSIM_SIDE:
                    rule = f"SSIM needs at least {SSIM_SIDE} pixels"
                    yield Fault(f"validation.{side}", pixels, rule, "give a larger one")
