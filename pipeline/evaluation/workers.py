"""Workers of an evaluation: this process, or processes on Ray; results in the order of the plan."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError
from ray.util import ActorPool

from pipeline.cluster import Cluster, connect
from pipeline.errors import ConfigError, PipelineError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.lineup import CandidateFacts
from pipeline.evaluation.totals import ScoreTotals
from pipeline.formatting import labelled
from pipeline.records import WorkUnit
from pipeline.tokenizers.arithmetic import job_arithmetic

Job = tuple[WorkUnit, int]
"""A unit, and the number of its first videos that get a picture."""


@dataclass(frozen=True, slots=True)
class Workers:
    """Workers that are ready to evaluate."""

    descriptions: list[CandidateFacts]
    """The candidates in the order of the table."""
    absent: dict[str, str]
    """Reasons why requested metrics and baselines are missing, by name."""
    evaluate: Callable[[Sequence[Job]], Iterator[ScoreTotals]]
    """Yields the totals of each unit in the given order. Raises a `PipelineError` when a source
    cannot be read or a worker died."""


def open_workers(
    config: EvaluationConfig, units: int, tell: Callable[[str], None]
) -> AbstractContextManager[Workers]:
    """Return a context with workers for a number of units; `tell` takes lines for a person.

    Raises:
        ConfigError: weights are wrong or differ between nodes, or there is no GPU as requested.
    """
    if (config.workers or 1) > 1 or os.environ.get("RAY_ADDRESS"):
        return _on_ray(config, units, tell)
    return _in_process(config)


def picture_jobs(units: Sequence[WorkUnit], pictures: int) -> list[Job]:
    """Return each unit with the number of pictures that it may have to draw.

    The number of videos in a tar is not known in advance. So each of the first units draws up to
    `pictures`, and the driver keeps the first ones.
    """
    return [(unit, pictures if n < pictures else 0) for n, unit in enumerate(units)]


@contextmanager
def _in_process(config: EvaluationConfig) -> Iterator[Workers]:
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise ConfigError("device = cuda: torch sees no GPU here; use device=cpu")
    device = "cuda" if has_gpu and config.device != "cpu" else "cpu"
    with job_arithmetic(config.threads), closing(Evaluator(config, device)) as evaluator:
        yield Workers(
            *evaluator.describe(), lambda jobs: (evaluator.evaluate(*job) for job in jobs)
        )


@contextmanager
def _on_ray(config: EvaluationConfig, units: int, tell: Callable[[str], None]) -> Iterator[Workers]:
    """Start as many actors as the settings and the cluster allow, and end them."""
    with connect() as cluster:
        tell(labelled("ray", cluster))
        on_gpu = cluster.gpus >= 1 and config.device != "cpu"
        if config.device == "cuda" and not on_gpu:
            raise ConfigError("device = cuda: the cluster has no GPU; use device=cpu")
        threads = config.threads or 1
        remote: Any = ray.remote(_Actor)
        count = min(units, config.workers or room(cluster, threads, on_gpu=on_gpu))
        start = remote.options(**worker_share(cluster, threads, count, on_gpu=on_gpu))
        own_threads = config.model_copy(update={"threads": threads})
        actors = [start.remote() for _ in range(count)]

        def evaluate(jobs: Sequence[Job]) -> Iterator[ScoreTotals]:
            with _as_pipeline_errors():
                yield from ActorPool(actors).map(
                    lambda actor, job: actor.evaluate.remote(*job), jobs
                )

        try:
            with _as_pipeline_errors():
                found: list[tuple[list[CandidateFacts], dict[str, str]]] = ray.get(
                    [
                        actor.open.remote(own_threads, "cuda" if on_gpu else "cpu")
                        for actor in actors
                    ]
                )
            if any(other != found[0] for other in found[1:]):
                raise ConfigError(
                    "metric_weights: nodes have different weights or tools; install the same ones"
                    " on every node"
                )
            yield Workers(*found[0], evaluate)
        finally:
            for actor in actors:
                ray.kill(actor)


class _Actor:
    """An evaluator in a process of its own.

    `open` makes it, not the constructor: of an error in a constructor Ray passes on its text only.
    """

    def open(
        self, config: EvaluationConfig, device: str
    ) -> tuple[list[CandidateFacts], dict[str, str]]:
        self._evaluator = Evaluator(config, device)
        return self._evaluator.describe()

    def evaluate(self, unit: WorkUnit, pictures: int) -> ScoreTotals:
        return self._evaluator.evaluate(unit, pictures)


def room(cluster: Cluster, threads: int, *, on_gpu: bool) -> int:
    """Return the number of workers that a cluster has room for."""
    return max(1, int(cluster.gpus if on_gpu else cluster.cpus / threads))


def worker_share(cluster: Cluster, threads: int, count: int, *, on_gpu: bool) -> dict[str, float]:
    """Return the resources of each of `count` workers, such that all of them can start.

    If there are more workers than fit, they share GPUs evenly and request no CPUs: a worker that
    waited for a place would wait forever.
    """
    if on_gpu:
        return {"num_cpus": 0, "num_gpus": 1 / math.ceil(count / int(cluster.gpus))}
    return {"num_cpus": threads if count * threads <= cluster.cpus else 0, "num_gpus": 0}


@contextmanager
def _as_pipeline_errors() -> Iterator[None]:
    try:
        yield
    except RayTaskError as error:
        if isinstance(error.cause, PipelineError):  # its own text, not the traceback of the worker
            raise error.cause from error
        raise
    except RayActorError as error:
        reason = str(error).strip().splitlines()[0]
        raise PipelineError(f"a worker died: {reason}; fewer workers need less memory") from error
