"""A training step: seconds, clips per second and memory."""

import statistics
from copy import deepcopy

import torch

from benchmarks.gpu.report import Report
from benchmarks.gpu.speed import rounds
from benchmarks.gpu.ways import Setup, model_on_cpu
from vidtok.training.objective import ObjectiveConfig
from vidtok.training.trainer import Trainer, TrainerConfig


def train(
    report: Report, setup: Setup, name: str, shape: tuple[int, int, int], recompute: bool
) -> None:
    """Add a row for one (batch, frames, size) in bfloat16, with the discriminator and no LPIPS."""
    batch, frames, size = shape
    where = {"model": name, "clips": f"{batch}×{frames}×{size}×{size}", "recompute": recompute}
    try:
        trainer = Trainer(
            deepcopy(model_on_cpu(name, setup.quick)).to(setup.device),
            TrainerConfig(precision="bf16", recompute=recompute),
            ObjectiveConfig(perceptual_weight=0, discriminator_start=0),
            None,
        )
        clips = torch.randint(
            256, (batch, frames, size, size, 3), dtype=torch.uint8, device=setup.device
        )
        trainer.train_on(clips)
        if setup.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        trainer.train_on(clips)
        gib = torch.cuda.max_memory_allocated() / 2**30 if setup.cuda else None
        seconds = statistics.median(rounds({"": lambda: trainer.train_on(clips)}, setup)[""])
        report.add(
            "training step", **where, seconds=seconds, clips_per_s=batch / seconds, peak_gib=gib
        )
    except torch.OutOfMemoryError:
        report.add("training step", **where, seconds="out of memory")
    finally:
        if setup.cuda:
            torch.cuda.empty_cache()
