"""Trainings by ranks that are real processes, without Ray."""

import os
import signal
import time
from pathlib import Path

from pipeline.training import run_log
from pipeline.training.config import TrainConfig
from pipeline.training.ray_ranks import Rank
from pipeline.training.stage import train_stages
from tests.pipeline.training.runs import SMALL
from tests.ranks import run_ranks
from vidtok.presets import PRESETS


def train_ranks(config: TrainConfig, world: int, *, killed_at: str | None = None) -> list[str]:
    """Train with a number of ranks, and return what the first one tells.

    With `killed_at`, all ranks are killed where a line begins so and a checkpoint is written.
    """
    told, meet = Path(f"{config.output}.told"), Path(f"{config.output}.meet")
    told.unlink(missing_ok=True)
    run_ranks(_train, world, meet, config, world, killed_at, told, killed=killed_at is not None)
    return told.read_text().splitlines()


def _train(rank: int, config: TrainConfig, world: int, killed_at: str | None, told: Path) -> None:
    run_log.curve_png = lambda _: None  # a picture of a run takes as long as five of its steps
    PRESETS.update(SMALL)

    def tell(line: str) -> None:
        with told.open("a") as file:
            file.write(line + "\n")
        if killed_at is not None and line.startswith(killed_at):
            while not list(Path(config.output).glob("*/checkpoints/*.pt")):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    train_stages(config, Rank(rank, world), tell)
