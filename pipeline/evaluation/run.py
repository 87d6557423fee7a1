"""The driver of an evaluation: plan, hand out, add up, write down."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch

from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.report import write
from pipeline.evaluation.results import candidate_rows, video_rows
from pipeline.evaluation.tally import ScoreTotals
from pipeline.evaluation.workers import open_workers
from pipeline.records import WorkUnit
from pipeline.sources.planning import plan_units


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out, and where it lies."""

    results: dict[str, Any]
    """The content of `scores.json`."""
    lines: list[str]
    """For a person: the table, what is missing and why, and where things are."""


def run_evaluation(
    config: EvaluationConfig, progress: Callable[[int, int], None] = lambda done, of: None
) -> Evaluation:
    """Evaluate, and write everything into the output folder.

    Args:
        config: the evaluation.
        progress: told how many units of how many are done.

    Raises:
        ConfigError: nothing can be evaluated as asked.
        PipelineError: a store failed, or a worker died.
    """
    units = plan_evaluation(config)
    tally = ScoreTotals()
    with open_workers(config, len(units)) as workers:
        descriptions, absent = workers.descriptions, dict(workers.absent)
        for done, part in enumerate(workers.tallies(units, config.pictures), 1):
            tally.merge(part)
            progress(done, len(units))
    results = {
        "settings": config.public(),
        "compares_with_published": config.is_as_published,
        "versions": {**_versions(), **tally.versions},
        "candidates": candidate_rows(config, descriptions, tally),
        "videos": video_rows(tally, descriptions),
        "absent": absent,
        "broken": [asdict(record) for record in tally.broken],
        "too_short": tally.short,
    }
    pictures = tally.pictures[: config.pictures]
    return Evaluation(results, write(config.output, results, pictures))


def plan_evaluation(config: EvaluationConfig) -> list[WorkUnit]:
    """Return the units to do, a video or a tar each.

    Raises:
        ConfigError: a pattern matches nothing, or nothing is left.
    """
    source = config.source
    return plan_units(
        source.uri,
        storage_options=source.storage_options,
        files_per_unit=1,
        exclude=source.excludes,
    )


def _versions() -> dict[str, str]:
    packages = ("torch", "av", "numpy")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in packages},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
