"""Who does the units: this process, or processes on Ray; either way in the order of the plan."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch

from pipeline.errors import ConfigError
from pipeline.evaluation.candidates import Description
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.evaluator import Evaluator
from pipeline.evaluation.scores import Tally
from pipeline.records import WorkUnit


class Workers(Protocol):
    """What the driver needs of them."""

    descriptions: list[Description]
    """The candidates, in the order of the table."""
    absent: dict[str, str]
    """Why metrics and baselines that were asked for are missing, by name."""

    def tallies(self, units: Sequence[WorkUnit], pictures: int) -> Iterator[Tally]:
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
        from pipeline.evaluation.ray_workers import on_ray

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

    def tallies(self, units: Sequence[WorkUnit], pictures: int) -> Iterator[Tally]:
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
