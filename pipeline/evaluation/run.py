"""Driver of an evaluation: plan, evaluate, add up, write the report."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch

from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.report import write
from pipeline.evaluation.results import candidate_rows, video_rows
from pipeline.evaluation.totals import ScoreTotals
from pipeline.evaluation.workers import open_workers, picture_jobs
from pipeline.sources.planning import plan_units
from pipeline.storage.access import require_writable
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Result of an evaluation."""

    results: dict[str, Any]
    """Content of `scores.json`."""
    lines: list[str]
    """Lines for a person: the table, what is missing and why, and the files."""


def run_evaluation(
    config: EvaluationConfig,
    progress: Callable[[int, int], None] = lambda done, of: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Evaluate, and write everything into the output folder.

    Args:
        config: the evaluation.
        progress: takes the number of units done and of all units.
        tell: takes lines for a person.

    Raises:
        ConfigError: the settings do not fit the videos, the weights or the cluster.
        PipelineError: a store failed, or a worker died.
    """
    require_writable(Store(config.output), "output")
    units = plan_units(config.source, single=True)
    totals = ScoreTotals()
    with open_workers(config, len(units), tell) as workers:
        descriptions, absent = workers.descriptions, workers.absent
        jobs = picture_jobs(units, config.pictures)
        for done, part in enumerate(workers.evaluate(jobs), 1):
            totals.merge(part)
            progress(done, len(units))
    results = {
        "settings": config.public(),
        "compares_with_published": config.is_as_published,
        "versions": {**_versions(), **totals.versions},
        "candidates": candidate_rows(config, descriptions, totals),
        "videos": video_rows(totals, descriptions),
        "absent": absent,
        "broken": [asdict(record) for record in totals.broken],
        "too_short": totals.short,
    }
    pictures = totals.pictures[: config.pictures]
    return Evaluation(results, write(config.output, results, pictures))


def _versions() -> dict[str, str]:
    packages = ("torch", "av", "numpy")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version(name) for name in packages},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
