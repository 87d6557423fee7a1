"""Workers on Ray: actors that hold all networks and take one unit after the other.

The only module of the evaluation that knows Ray.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util import ActorPool

from pipeline.cluster import Cluster, connect
from pipeline.errors import ConfigError, PipelineError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.scores import Tally
from pipeline.evaluation.workers import Workers, pictures_of
from pipeline.records import WorkUnit


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
        start = remote.options(**share(cluster, threads, count, on_gpu=on_gpu))
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


def share(cluster: Cluster, threads: int, count: int, *, on_gpu: bool) -> dict[str, float]:
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

    def tallies(self, units: Sequence[WorkUnit], pictures: int) -> Iterator[Tally]:
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
