"""Rules between the settings of an evaluation, and between settings and models."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.loading import Fault
from pipeline.config.source import job_only_faults
from pipeline.evaluation.config import EvaluatedClip, EvaluationConfig
from pipeline.tokenizers.checks import (
    clip_faults,
    known_facts,
    tile_faults,
    tokenizer_faults,
    use_near,
)

if TYPE_CHECKING:
    from pipeline.tokenizers.protocol import Facts


def check_evaluation(config: EvaluationConfig) -> list[Fault]:
    """Return the rules broken by a configuration whose fields are valid one by one."""
    faults = [*_names(config), *_metric_weights(config)]
    if config.clip.choice == "interval" and config.clip.fps is None:
        rule = "the interval is round(rate of the source / clip.fps)"
        faults.append(Fault("clip.choice", config.clip.choice, rule, "give clip.fps"))
    if config.clip.chunking == "reference" and isinstance(config.tile, int):
        rule = "clip.chunking = reference has no exact tiles"
        faults.append(Fault("tile", config.tile, rule, "leave out one of the two"))
    faults += job_only_faults(config.source, "source")
    for n, spec in enumerate(config.tokenizers):
        faults += tokenizer_faults(spec.model, spec.weights, f"tokenizers.{n}.")
        if facts := known_facts(spec.model):
            faults += candidate_faults(config.clip, spec.model, facts)
            faults += tile_faults(config.tile, spec.model, facts)
    return list(dict.fromkeys(faults))


def _names(config: EvaluationConfig) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for n, spec in enumerate(config.tokenizers):
        if spec.name in seen:
            rule = f"tokenizers.{seen[spec.name]} already has this name"
            yield Fault(f"tokenizers.{n}.name", spec.name, rule, "choose another name")
        seen.setdefault(spec.name, n)


def _metric_weights(config: EvaluationConfig) -> Iterator[Fault]:
    for name, path in config.metric_weights:
        if path is not None and not Path(path).is_file():
            yield Fault(f"metric_weights.{name}", path, "no such file")


def clip_frames(facts: "Facts", clip: EvaluatedClip) -> int | None:
    """Return the number of frames in a network's clips; None for whole videos."""
    if clip.whole_videos and facts.chunkable:
        return None
    return clip.frames or facts.lengths.near(17)[0]


def candidate_faults(clip: EvaluatedClip, model: str, facts: "Facts") -> Iterator[Fault]:
    """Yield the settings of clips that a model does not take."""
    frames = clip_frames(facts, clip)
    if frames is None and clip.chunk_frames % facts.temporal_factor:
        rule = f"{model} takes a multiple of {facts.temporal_factor}"
        fix = use_near(clip.chunk_frames, facts.temporal_factor)
        yield Fault("clip.chunk_frames", clip.chunk_frames, rule, fix)
    length = frames or 1 + clip.chunk_frames
    yield from clip_faults(facts, model, length, clip.height, clip.width)
