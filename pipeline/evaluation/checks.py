"""Rules between the settings of an evaluation, and between settings and models."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.config.loading import Fault
from pipeline.config.source import job_only_faults
from pipeline.evaluation.config import EvaluationConfig
from pipeline.tokenizers.checks import clip_faults, tokenizer_faults


def check_evaluation(config: EvaluationConfig) -> list[Fault]:
    """Return the rules broken by a configuration whose fields are valid one by one."""
    faults = [*_names(config), *_metric_weights(config)]
    if config.clip.choice == "interval" and config.clip.fps is None:
        rule = "the interval is round(rate of the source / clip.fps)"
        faults.append(Fault("clip.choice", config.clip.choice, rule, "give clip.fps"))
    faults += job_only_faults(config.source, "source")
    for n in range(len(config.tokenizers)):
        faults += _tokenizer(config, n)
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


def _tokenizer(config: EvaluationConfig, n: int) -> Iterator[Fault]:
    from pipeline.evaluation.lineup import clip_frames
    from vidtok.presets import PRESETS

    spec, clip = config.tokenizers[n], config.clip
    yield from tokenizer_faults(spec.model, spec.weights, f"tokenizers.{n}.")
    if spec.model not in PRESETS:
        return
    model = PRESETS[spec.model]
    frames = clip_frames(model, clip)
    if frames is None and clip.chunk_frames % model.temporal_factor:
        rule = f"{model.name} takes a multiple of {model.temporal_factor}"
        yield Fault("clip.chunk_frames", clip.chunk_frames, rule)
    yield from clip_faults(model, frames or 1 + clip.chunk_frames, clip.height, clip.width)
