"""Who does the units: this process, or processes on Ray; either way in the order of the plan."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import ray
import torch
from ray.exceptions import RayActorError
from ray.util import ActorPool

from pipeline.cluster import Cluster, connect
from pipeline.errors import ConfigError, PipelineError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.lineup import Description
from pipeline.evaluation.tally import ScoreTotals
from pipeline.records import WorkUnit


class Workers(Protocol):
    """What the driver needs of them."""

    descriptions: list[Description]
    """The candidates, in the order of the table."""
    absent: dict[str, str]
    """Why metrics and baselines that were asked for are missing, by name."""

    def tallies(self, units: Sequence[WorkUnit], pictures: int) -> Iterator[ScoreTotals]:
        """Yield the tally of each unit, in the order given.

        Raises:
            PipelineError: a source cannot be read now, or a worker died.
        """
        ...


def open_workers(config: EvaluationConfig, units: int) -> AbstractContextManager[Workers]:
    """Return workers for so many units, ready to be entered.

    Raises:
        ConfigError: weights are not what they should be, or there are no GPUs that were asked for.
    """
    if (config.workers or 1) > 1 or os.environ.get("RAY_ADDRESS"):
        from pipeline.evaluation.workers import on_ray

        return on_ray(config, units)
    return _in_process(config)


def pictures_of(position: int, pictures: int) -> int:
    """Return how many pictures a unit at a position of the plan may have to give.

    How many videos a tar before it holds is known too late: the driver keeps the first so many.
    """
    return pictures if position < pictures else 0


class _ThisProcess:
    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.descriptions, self.absent = evaluator.describe()

    def tallies(self, units: Sequence[WorkUnit], pictures: int) -> Iterator[ScoreTotals]:
        for position, unit in enumerate(units):
            yield self._evaluator.evaluate(unit, pictures_of(position, pictures))


@contextmanager
def _in_process(config: EvaluationConfig) -> Iterator[Workers]:
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise ConfigError("device = cuda: torch sees no GPU here; use device=cpu")
    on_gpu = has_gpu and config.device != "cpu"
    threads = torch.get_num_threads()
    evaluator = Evaluator(config, "cuda" if on_gpu else "cpu")
    try:
        yield _ThisProcess(evaluator)
    finally:
        evaluator.close()
        torch.set_num_threads(threads)


@contextmanager
def on_ray(config: EvaluationConfig, units: int) -> Iterator[Workers]:
    """Start as many actors as the settings and the cluster say, and end them.

    Raises:
        ConfigError: the nodes have different weights, or there are no GPUs that were asked for.
    """
    with connect() as cluster:
        on_gpu = cluster.gpus >= 1 and config.device != "cpu"
        if config.device == "cuda" and not on_gpu:
            raise ConfigError("device = cuda: the cluster has no GPU; use device=cpu")
        threads = config.threads or 1
        remote: Any = ray.remote(Evaluator)
        count = min(units, config.workers or room(cluster, threads, on_gpu=on_gpu))
        start = remote.options(**worker_share(cluster, threads, count, on_gpu=on_gpu))
        own_threads = config.model_copy(update={"threads": threads})
        actors = [start.remote(own_threads, "cuda" if on_gpu else "cpu") for _ in range(count)]
        try:
            yield _Actors(actors)
        finally:
            for actor in actors:
                ray.kill(actor)


def room(cluster: Cluster, threads: int, *, on_gpu: bool) -> int:
    """Return how many workers a cluster has room for."""
    return max(1, int(cluster.gpus if on_gpu else cluster.cpus / threads))


def worker_share(cluster: Cluster, threads: int, count: int, *, on_gpu: bool) -> dict[str, float]:
    """Return what each of `count` workers asks of the cluster, so that all of them can start.

    Workers that are more than fit share GPUs evenly, and ask for no CPUs: one that waited for a
    place would wait for ever.
    """
    if on_gpu:
        return {"num_cpus": 0, "num_gpus": 1 / math.ceil(count / int(cluster.gpus))}
    return {"num_cpus": threads if count * threads <= cluster.cpus else 0, "num_gpus": 0}


class _Actors:
    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors
        with _as_pipeline_errors():
            said = ray.get([actor.describe.remote() for actor in actors])
        if any(other != said[0] for other in said[1:]):
            raise ConfigError(
                "the nodes have different weights or tools; bring the same files and packages to"
                " every node"
            )
        self.descriptions, self.absent = said[0]

    def tallies(self, units: Sequence[WorkUnit], pictures: int) -> Iterator[ScoreTotals]:
        pool = ActorPool(self._actors)
        jobs = [(unit, pictures_of(n, pictures)) for n, unit in enumerate(units)]
        with _as_pipeline_errors():
            yield from pool.map(lambda actor, job: actor.evaluate.remote(*job), jobs)


@contextmanager
def _as_pipeline_errors() -> Iterator[None]:
    try:
        yield
    except RayActorError as error:
        reason = str(error).strip().splitlines()[0]
        raise PipelineError(f"a worker died: {reason}; fewer workers need less memory") from error
