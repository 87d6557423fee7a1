"""Command line of both generators; training runs in this process or on Ray."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import pipeline
from examples.generators import checkpoint
from examples.generators.training import Build, Settings, train
from pipeline.errors import PipelineError
from pipeline.storage import Store, canonical_uri
from pipeline.training import Rank, run_ranks

_MAX_FAILURES = 8


def command(description: str, kind: str, build: Build) -> None:
    """Parse the command line, train, and print the result.

    Args:
        description: description of the program.
        kind: kind of cells that are learned, `indices` or `latents`.
        build: makes the generator.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("corpus", help="a dataset: a folder, or s3://…")
    parser.add_argument("--out", required=True, help="folder or URI for pictures and weights")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4, help="clips per step and rank")
    parser.add_argument("--patch", type=int, default=2, help="p×p cells are one token")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3, help="lower it for a wider generator")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument("--held-out", type=float, default=0.05, help="fraction of the videos")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=1000, help="steps between checkpoints")
    parser.add_argument("--channels", type=int, help="FSQ channels to keep; all by default")
    parser.add_argument("--loaders", type=int, default=0, help="reading processes per rank")
    parser.add_argument("--workers", type=int, default=0, help="ranks on Ray; 0: this process")
    asked = vars(parser.parse_args())
    try:
        result = run(Settings(**asked), kind, build)
    except PipelineError as error:
        sys.exit(str(error))
    held_out = result["loss_held_out"]
    result["held_out"] = "no video" if math.isnan(held_out) else f"{held_out:.3f}"
    if result["bits_per_loss"] is not None and not math.isnan(held_out):
        result["held_out"] += f", {held_out * result['bits_per_loss']:.2f} bits per token"
    print(
        "corpus     version {version}\n"
        "parameters {parameters:,}\n"
        "loss       {loss_start:.3f} → {loss_end:.3f} {loss_unit}, {ranks} ranks, {seconds:.0f} s\n"
        "held out   {held_out}\n"
        "samples    differ from the nearest of {compared} clips by {nearest} {distance_unit}"
        "".format(**result)
    )
    print(f"written    {asked['out']}: loss.png, samples.gif, samples.jpg, model.pt, checkpoint.pt")


def run(settings: Settings, kind: str, build: Build) -> dict[str, Any]:
    """Train in this process or on Ray, and return the result of `train`."""
    saved = checkpoint.load(Store(settings.out), settings.identity(kind))
    # All ranks and a resumed run read one version, although a job may add to the dataset.
    version = saved["version"] if saved else pipeline.open(settings.corpus).version
    tell = partial(print, flush=True)
    if settings.workers == 0:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return train(settings, kind, build, version, torch.device(device), tell)
    # Ray Train changes the folder, so paths must be absolute.
    absolute = {name: canonical_uri(getattr(settings, name)) for name in ("corpus", "out")}
    work = partial(_rank, replace(settings, **absolute), kind, build, version)
    return run_ranks(work, tell, ranks=settings.workers, max_failures=_MAX_FAILURES)


def _rank(
    settings: Settings,
    kind: str,
    build: Build,
    version: int,
    rank: Rank,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    return train(settings, kind, build, version, torch.device(rank.device), tell)
