"""Where the ranks of a training are: in this process, or on a Ray cluster, by Ray Train.

Ray Train, since who runs corpus jobs has the cluster: it places a worker per GPU, sets up their
process group, and starts all of them again when one dies, on what nodes there are by then. What
they go on from is our own checkpoint, the same whoever started the process; so nothing is reported
to Ray Train, and what it stores of its own goes to a temporary folder.
"""

import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import torch

from pipeline.cluster import Cluster, connect
from pipeline.errors import ConfigError, PipelineError
from pipeline.storage.files import canonical_uri
from pipeline.training.config import ObjectiveSection, TrainConfig
from pipeline.training.stage import Rank, Tell, train_stages

if TYPE_CHECKING:
    from ray.train import RunConfig
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue


_LISTEN_EVERY_S = 0.5


def launch(config: TrainConfig, tell: Tell) -> None:
    """Run all stages to their end.

    Args:
        config: the run.
        tell: takes lines about progress.

    Raises:
        ConfigError: something that the configuration names is not there.
        PipelineError: the ranks failed more often than `max_failures`.
    """
    if config.workers == 0:
        gpu = torch.cuda.is_available() if config.gpu is None else config.gpu
        train_stages(config, Rank(device="cuda" if gpu else "cpu"), tell)
        return
    with connect() as cluster, tempfile.TemporaryDirectory() as scratch:
        import ray
        from ray.util.queue import Queue

        # On this node: that it dies costs the run anyway.
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        lines = Queue(actor_options={"num_cpus": 0, "label_selector": here})
        trainer = _trainer(_with_absolute_paths(config), cluster, lines, scratch)
        _fit(trainer, lines, tell)


def _trainer(config: TrainConfig, cluster: Cluster, lines: "Queue", scratch: str) -> "TorchTrainer":
    import ray.train
    from ray.train.torch import TorchTrainer

    gpu = cluster.gpus > 0 if config.gpu is None else config.gpu
    have, of = (cluster.gpus, "GPUs") if gpu else (cluster.cpus, "CPUs")
    if cluster.is_own and have < config.workers:
        raise ConfigError(
            f"workers = {config.workers}: this machine has {have:g} {of}, and each rank takes one"
        )

    return TorchTrainer(
        _worker,
        train_loop_config={"config": config, "lines": lines},
        scaling_config=ray.train.ScalingConfig(num_workers=config.workers, use_gpu=gpu),
        run_config=run_config(scratch, config.max_failures),
    )


def run_config(scratch: str, max_failures: int) -> "RunConfig":
    """Return settings of a Ray Train run whose ranks are started again when one dies.

    Args:
        scratch: folder for what Ray Train stores of its own.
        max_failures: so often, but never after a `ConfigError`.
    """
    import ray.train

    class EndAtConfigError(ray.train.UserCallback):  # type: ignore[misc]
        """Trying again would not help; what a callback raises is final for Ray Train."""

        def after_exception(
            self, run_context: Any, worker_exceptions: dict[int, Exception]
        ) -> None:
            for error in worker_exceptions.values():
                cause = getattr(error, "_base_exc", error)
                if isinstance(cause, ConfigError):
                    raise cause

    return ray.train.RunConfig(
        storage_path=scratch,
        failure_config=ray.train.FailureConfig(max_failures=max_failures),
        callbacks=[EndAtConfigError()],
    )


@contextmanager
def rank_errors() -> Iterator[None]:
    """Raise what a rank's `ConfigError` says as it is, and all else as one `PipelineError`."""
    import ray.train

    try:
        yield
    except ray.train.ControllerError as error:
        if isinstance(error.controller_failure, ConfigError):
            raise error.controller_failure from None
        raise PipelineError(f"training failed: {error}") from error
    except ray.train.TrainingFailedError as error:
        raise PipelineError(f"training failed: {error}") from error


def _fit(trainer: "TorchTrainer", lines: "Queue", tell: Tell) -> None:
    """Run the trainer to its end, and tell the lines that come meanwhile."""
    outcome: Future[object] = Future()

    def fit() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    # Not in the main thread: there it would take Ctrl-C for itself, and exit with 0.
    Thread(target=fit, daemon=True).start()
    ended = False
    while not ended:
        ended = bool(wait([outcome], timeout=_LISTEN_EVERY_S).done)
        for line in lines.get_nowait_batch(lines.qsize()):
            tell(line)
    with rank_errors():
        outcome.result()


def _worker(given: dict[str, Any]) -> None:
    """What each rank does; runs on the cluster."""
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size(), str(get_device()))
    train_stages(given["config"], rank, given["lines"].put)


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """Return the run with paths that mean the same in every process: Ray Train changes folders."""
    changes: dict[str, Any] = {"output": canonical_uri(config.output, config.storage_options)}
    for name in ("source", "validation"):
        if (videos := getattr(config, name)) is not None:
            uris = [canonical_uri(uri, videos.storage_options) for uri in videos.uri]
            changes[name] = videos.model_copy(update={"uri": uris})
    if config.weights is not None and config.weights != "hub":
        changes["weights"] = str(Path(config.weights).resolve())
    changes["stages"] = [
        stage.model_copy(update={"objective": _with_absolute_vgg16(stage.objective)})
        for stage in config.stages
    ]
    return config.model_copy(update=changes)


def _with_absolute_vgg16(terms: ObjectiveSection) -> ObjectiveSection:
    if terms.vgg16 is None:
        return terms
    return terms.model_copy(update={"vgg16": str(Path(terms.vgg16).resolve())})
