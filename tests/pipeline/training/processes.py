"""Ranks as real processes without Ray, forked from one that has imported what they need."""

import gc
import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from pipeline.training.config import TrainConfig
from pipeline.training.ray_ranks import Rank
from pipeline.training.stage import train_stages
from tests.pipeline.training.runs import SMALL
from vidtok.presets import PRESETS

torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # torch imports its compiler here: 2 s


PATIENCE_S = 200.0
"""Seconds that ranks may take. They need eight on an idle machine, 100 at a load of 20."""


def train_ranks(config: TrainConfig, world: int, *, killed_at: str | None = None) -> list[str]:
    """Train with a number of ranks, and return what the first one tells.

    With `killed_at`, all ranks are killed where a line begins so and a checkpoint is written.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "matplotlib.figure", "torch.utils.tensorboard"])
    told, meet = Path(f"{config.output}.told"), Path(f"{config.output}.meet")
    for left in (told, meet):
        left.unlink(missing_ok=True)
    ranks = [
        context.Process(target=_train, args=(config, rank, world, killed_at, told, meet))
        for rank in range(world)
    ]
    deadline = time.monotonic() + PATIENCE_S
    try:
        for process in ranks:
            process.start()
        for process in ranks if killed_at is None else ranks[:1]:
            process.join(max(0, deadline - time.monotonic()))
        codes = [process.exitcode for process in ranks]  # None: it still runs
    finally:
        for process in ranks:
            process.kill()
        for process in ranks:
            process.join()
    if killed_at is None:
        assert codes == [0] * world
    else:
        assert codes[0] == -signal.SIGKILL
    return told.read_text().splitlines()


def _train(
    config: TrainConfig, rank: int, world: int, killed_at: str | None, told: Path, meet: Path
) -> None:
    torch.set_num_threads(1)
    PRESETS.update(SMALL)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meet}", rank=rank, world_size=world
    )

    def tell(line: str) -> None:
        with told.open("a") as file:
            file.write(line + "\n")
        if killed_at is not None and line.startswith(killed_at):
            while not list(Path(config.output).glob("*/checkpoints/*.pt")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    train_stages(config, Rank(rank, world), tell)
    # One that outlives the process group hangs torch at times.
    assert not [left for left in gc.get_objects() if type(left) is DistributedDataParallel]
    distributed.destroy_process_group()
