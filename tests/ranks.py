"""Ranks of a process group as processes, forked from one that has imported what they need."""

import gc
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

PATIENCE_S = 200.0
"""Seconds that ranks may take. They need eight on an idle machine, 100 at a load of 20."""


def fork_server() -> ForkServerContext:
    """Return what starts processes that need not import torch: it has done so."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.preloaded"])
    return context


def run_ranks(
    work: Callable[..., None], world: int, meet: Path, *args: Any, killed: bool = False
) -> None:
    """Call `work(rank, *args)` in each rank of a group, and wait for all; no process is left.

    Args:
        work: function of a module.
        world: number of ranks.
        meet: path of the file by which they find each other; each group needs its own.
        args: what `work` gets.
        killed: whether the first rank kills itself; the others are then killed, too.
    """
    context = fork_server()
    meet.unlink(missing_ok=True)
    ranks = [
        context.Process(target=_in_group, args=(work, rank, world, meet, args))
        for rank in range(world)
    ]
    codes = exit_codes(ranks, wait_for=1 if killed else world)
    if killed:  # the others may notice it before they are killed
        assert codes[0] == -signal.SIGKILL
    else:
        assert codes == [0] * world


def exit_codes(ranks: Sequence[BaseProcess], wait_for: int) -> list[int | None]:
    """Start ranks, wait for the first ones, kill all. The code of one that still ran is None."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        for process in ranks:
            process.start()
        for process in ranks[:wait_for]:
            process.join(max(0, deadline - time.monotonic()))
        return [process.exitcode for process in ranks]
    finally:
        for process in ranks:
            process.kill()
        for process in ranks:
            process.join()


def _in_group(
    work: Callable[..., None], rank: int, world: int, meet: Path, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{meet}", rank=rank, world_size=world
    )
    work(rank, *args)
    # One that outlives the process group hangs torch at times.
    assert not [left for left in gc.get_objects() if type(left) is DistributedDataParallel]
    distributed.destroy_process_group()
