"""What ranks import: their fork server loads this module, and no process of tests does."""

import matplotlib.figure
import torch
import torch.utils.tensorboard

import pipeline.training.stage
import vidtok.training.trainer

__all__ = ["matplotlib", "pipeline", "torch", "vidtok"]

torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # torch imports its compiler here: 2 s
