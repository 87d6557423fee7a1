"""The command line of both generators, and where their training runs: here, or on Ray's ranks."""

import argparse
import math
import sys
import tempfile
from dataclasses import asdict
from typing import Any

import torch

import pipeline
from examples.generators import checkpoint
from examples.generators.training import Build, Settings, train
from pipeline.cluster import connect
from pipeline.errors import PipelineError
from pipeline.storage.files import canonical_uri
from pipeline.storage.store import Store
from pipeline.training.launch import rank_errors, run_config

_MAX_FAILURES = 8


def command(description: str, kind: str, build: Build) -> None:
    """Parse the command line, train, and print what came of it.

    Args:
        description: of the program.
        kind: of tokenizer whose column is learned, `fsq` or `kl`.
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
    parser.add_argument("--lr", type=float, default=2e-3, help="a wide one wants less")
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument("--held-out", type=float, default=0.05, help="share of the videos")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=1000, help="steps between checkpoints")
    parser.add_argument("--loaders", type=int, default=0, help="processes that read, per rank")
    parser.add_argument("--workers", type=int, default=0, help="ranks on Ray; 0: this process")
    asked = vars(parser.parse_args())
    try:
        result = run(Settings(**asked), kind, build)
    except PipelineError as error:
        sys.exit(str(error))
    held_out = result["loss_held_out"]
    result["held_out"] = "no video" if math.isnan(held_out) else f"{held_out:.3f}"
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
    """Train here, or on Ray; return what `train` does."""
    saved = checkpoint.load(Store(settings.out), settings.identity(kind))
    # One version for all ranks and for a run that goes on, though a job adds to the dataset.
    version = saved["version"] if saved else pipeline.open(settings.corpus).version
    if settings.workers == 0:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return train(settings, kind, build, version, device)
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    changes = {name: canonical_uri(getattr(settings, name)) for name in ("corpus", "out")}
    settings = Settings(**{**asdict(settings), **changes})  # Ray Train changes the folder
    given = {"settings": settings, "kind": kind, "build": build, "version": version}
    with connect() as cluster, tempfile.TemporaryDirectory() as scratch:
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config=given,
            scaling_config=ScalingConfig(num_workers=settings.workers, use_gpu=cluster.gpus > 0),
            run_config=run_config(scratch, _MAX_FAILURES),
        )
        with rank_errors():
            return dict(trainer.fit().return_value)  # of the first rank


def _ray_worker(given: dict[str, Any]) -> dict[str, Any]:
    from ray.train.torch import get_device

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where collectives of Python objects meet
    return train(**given, device=device)
