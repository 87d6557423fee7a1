"""Ranks of a training on a Ray cluster, by Ray Train.

Ray Train places one worker per GPU and sets up the process group. When a worker dies, it restarts
all of them on the nodes that exist then, with a smaller number if the run allows it. The ranks
resume from their own checkpoint, so nothing is reported to Ray Train, and its own files go to a
temporary folder.
"""

import gc
import tempfile
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pipeline.errors import ConfigError, Diverged, PipelineError
from pipeline.formatting import labelled
from pipeline.threads import in_thread

if TYPE_CHECKING:
    from ray.train import RunConfig

T = TypeVar("T")

Tell = Callable[[str], None]
"""Takes lines about progress."""

_POLL_SECONDS: Final = 0.5
_GROW_SECONDS: Final = 600.0
"""Seconds between two looks for more nodes. A change of ranks repeats the batches since the last
checkpoint."""


@dataclass(frozen=True, slots=True)
class Rank:
    """Position of this process among those that train together."""

    rank: int = 0
    """Number of the process, from 0."""
    world: int = 1
    """Number of processes."""
    device: str = "cpu"
    """Device of the process, as torch names it."""


def run_ranks(
    work: Callable[[Rank, Tell], T],
    tell: Tell,
    *,
    ranks: int,
    max_failures: int,
    min_ranks: int | None = None,
    gpu: bool | None = None,
) -> T:
    """Run the same work on every rank, and return the first rank's result.

    Args:
        work: called once in each process; must be picklable. What it tells arrives here.
        tell: takes the lines.
        ranks: number of processes.
        max_failures: number of restarts after failures; a `ConfigError` or `Diverged` ends the
            run at once.
        min_ranks: minimum number of processes, with which the run starts or continues if the
            cluster has no room for `ranks`. None: `ranks`.
        gpu: whether each rank gets a GPU; None: if the cluster has one.

    Raises:
        ConfigError: a rank raised it, or this machine has too few GPUs or CPUs.
        Diverged: a rank raised it.
        PipelineError: the ranks failed more often than `max_failures`.
    """
    import ray.train
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    from pipeline.cluster import connect

    with connect() as cluster, tempfile.TemporaryDirectory() as scratch:
        tell(labelled("ray", cluster))
        use_gpu = cluster.gpus > 0 if gpu is None else gpu
        have, unit = (cluster.gpus, "GPUs") if use_gpu else (cluster.cpus, "CPUs")
        least = ranks if min_ranks is None else min_ranks
        if cluster.is_own and have < least:
            name = "workers" if min_ranks is None else "min_workers"
            raise ConfigError(
                f"{name} = {least}: this machine has {have:g} {unit}; each rank takes one, so lower"
                f" {name}, or join a cluster with --ray"
            )
        # The queue is on the driver's node: the loss of that node ends the run in any case.
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        lines = Queue(actor_options={"num_cpus": 0, "label_selector": here})
        trainer = TorchTrainer(
            _run_rank,
            train_loop_config={"work": work, "lines": lines},
            scaling_config=ray.train.ScalingConfig(
                num_workers=ranks if least == ranks else (least, ranks),
                use_gpu=use_gpu,
                elastic_resize_monitor_interval_s=_GROW_SECONDS,
            ),
            run_config=_run_config(scratch, max_failures),
        )
        outcome = in_thread(trainer.fit)  # in the main one it takes Ctrl-C, and exits with 0
        ended = False
        while not ended:
            ended = bool(wait([outcome], timeout=_POLL_SECONDS).done)
            for line in lines.get_nowait_batch(lines.qsize()):
                tell(line)
        try:
            result: T = outcome.result().return_value
        except ray.train.ControllerError as error:
            if isinstance(error.controller_failure, ConfigError | Diverged):
                raise error.controller_failure from None
            raise PipelineError(f"training failed: {error}") from error
        except ray.train.TrainingFailedError as error:
            raise PipelineError(f"training failed: {error}") from error
        return result


def _run_rank(given: dict[str, Any]) -> Any:
    """Run the work of one rank, on the cluster."""
    import ray.train
    import torch
    from ray.train.torch import get_device

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # collectives of Python objects use the current device
    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size(), str(device))
    result = given["work"](rank, given["lines"].put)
    # torch can hang if the process group is destroyed while a network that synchronises lives: the
    # network then ends the group's threads while it holds Python's lock, which they wait for. The
    # work leaves networks behind in reference cycles.
    gc.collect()
    return result


def _run_config(scratch: str, max_failures: int) -> "RunConfig":
    import ray.train

    class EndAtOnce(ray.train.UserCallback):  # type: ignore[misc]
        """Ends the run where a retry does not help: Ray Train retries no callback's error."""

        def after_exception(
            self, run_context: Any, worker_exceptions: dict[int, Exception]
        ) -> None:
            for error in worker_exceptions.values():
                cause = getattr(error, "_base_exc", error)
                if isinstance(cause, ConfigError | Diverged):
                    raise cause

    return ray.train.RunConfig(
        storage_path=scratch,
        failure_config=ray.train.FailureConfig(max_failures=max_failures),
        callbacks=[EndAtOnce()],
    )
