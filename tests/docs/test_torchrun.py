"""The blocks of pages that start ranks with torchrun; see `blocks.py`."""

import multiprocessing
import os
import runpy
import shlex
import socket
from pathlib import Path

import pytest
import torch

from tests.docs.blocks import TORCHRUN, WITH_RANKS, Blocks, run_page
from tests.ranks import exit_codes, fork_server


def as_rank(rank: int, world: int, port: int, program: str, told: Path) -> None:
    """Be what torchrun starts: a program with its rank in the environment."""
    for number in (1, 2):
        os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # that of a program; a fork has its server's
    runpy.run_path(program, run_name="__main__")


class Forks(Blocks):
    """Forks the ranks: as programs, each of them and torchrun import torch, for four seconds."""

    def shell(self, script: str) -> str:
        found = TORCHRUN.fullmatch(script)
        if found is None:
            return super().shell(script)
        from torch.distributed.run import parse_args  # takes half a second

        asked = parse_args(shlex.split(found[1]))
        world, told = int(asked.nproc_per_node), Path("told").absolute()
        program = str(Path(asked.training_script).absolute())
        told.write_text("")
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        ranks = [
            fork_server().Process(target=as_rank, args=(n, world, port, program, told))
            for n in range(world)
        ]
        assert exit_codes(ranks, world) == [0] * world, told.read_text()
        return told.read_text()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", WITH_RANKS, ids=lambda page: page.stem)
def test_the_blocks_run(page: Path, folder: Path) -> None:
    assert run_page(page, Forks()).count > 0
