"""Where the ranks of a training are: in this process, or on a Ray cluster, by Ray Train.

Ray Train, since who runs corpus jobs has the cluster: it places a worker per GPU, sets up their
process group, and starts all of them again when one dies, on what nodes there are by then. What
they go on from is our own checkpoint, the same whoever started the process.
"""

from collections.abc import Callable

import torch

from pipeline.cluster import connect
from pipeline.errors import PipelineError
from pipeline.training.config import TrainConfig
from pipeline.training.stage import Rank, train_stages


def launch(config: TrainConfig, tell: Callable[[str], None]) -> None:
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
    with connect() as cluster:
        import ray.train
        from ray.train.torch import TorchTrainer

        gpu = cluster.gpus > 0 if config.gpu is None else config.gpu
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": config},
            scaling_config=ray.train.ScalingConfig(num_workers=config.workers, use_gpu=gpu),
            run_config=ray.train.RunConfig(
                failure_config=ray.train.FailureConfig(max_failures=config.max_failures)
            ),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            raise PipelineError(f"training failed: {error}") from error


def _worker(given: dict[str, TrainConfig]) -> None:
    """What each rank does; runs on the cluster."""
    import ray.train
    from ray.train.torch import get_device

    context = ray.train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size(), str(get_device()))
    train_stages(given["config"], rank, lambda line: print(line, flush=True))
