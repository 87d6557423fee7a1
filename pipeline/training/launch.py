"""Where the ranks of a training run: in this process, or on a Ray cluster."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline.storage.access import require_writable
from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store
from pipeline.tokenizers.checks import absolute_path
from pipeline.training.config import TrainConfig
from pipeline.training.ray_ranks import Rank, Tell, run_ranks
from pipeline.training.stage import train_stages


def launch(config: TrainConfig, tell: Tell) -> None:
    """Run all stages to their end.

    Args:
        config: the run.
        tell: takes lines about progress.

    Raises:
        ConfigError: something that the configuration names does not exist.
        PipelineError: the ranks failed more often than `max_failures`.
    """
    require_writable(Store(config.output, config.storage_options), "output")
    if config.workers == 0:
        gpu = torch.cuda.is_available() if config.gpu is None else config.gpu
        train_stages(config, Rank(device="cuda" if gpu else "cpu"), tell)
    else:
        run_ranks(
            partial(train_stages, _with_absolute_paths(config)),
            tell,
            ranks=config.workers,
            min_ranks=config.min_workers,
            max_failures=config.max_failures,
            gpu=config.gpu,
        )


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Return the run with paths that mean the same in every process: Ray Train changes folders."""
    changes: dict[str, Any] = {
        "output": canonical_uri(config.output, config.storage_options),
        "weights": absolute_path(config.weights),
    }
    for name in ("source", "validation"):
        if (videos := getattr(config, name)) is not None:
            uris = [canonical_uri(uri, videos.storage_options) for uri in videos.uri]
            changes[name] = videos.model_copy(update={"uri": uris})
    changes["stages"] = []
    for stage in config.stages:
        terms = stage.objective
        given = {name: getattr(terms, name) for name in ("vgg16", "features")}
        files = {name: str(Path(file).resolve()) for name, file in given.items() if file}
        objective = terms.model_copy(update=files)
        changes["stages"].append(stage.model_copy(update={"objective": objective}))
    return config.model_copy(update=changes)
