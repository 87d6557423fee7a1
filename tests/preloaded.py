"""What ranks import: their fork server loads this module, and no process of tests does."""

import gc
from multiprocessing import forkserver

import matplotlib.figure
import torch
import torch.utils.tensorboard

import pipeline.training.stage
import vidtok.training.trainer
from tests.pipeline.forked_decoders import fork_decoders

__all__ = ["matplotlib", "pipeline", "torch", "vidtok"]

torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # torch imports its compiler here: 2 s

# Loaders of a fork are forks of this process, too. Python means that, and starts another server.
forkserver._forkserver.ensure_running = lambda: None  # type: ignore[attr-defined]
fork_decoders()
gc.collect()
gc.freeze()  # else each collection of a fork walks all of torch, and unshares its pages
