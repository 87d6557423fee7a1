"""Train a generator on a column of a dataset, then show what it learned.

    pipeline.open ─► TokenDataset ─► generator(cells) = loss ─► AdamW
                                     generator.sample ─► tokenizer ─► samples.gif, samples.jpg

The same function runs in this process or, with `--workers N`, on N ranks that Ray Train starts:
the reader asks torch.distributed which rank it serves.
"""

import argparse
import io
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import pipeline
from examples.generators.samples import draw_samples
from pipeline.cluster import connect
from pipeline.errors import ConfigError, PipelineError
from pipeline.files import canonical_uri
from pipeline.parts import TokenizerColumn
from pipeline.reading import Snapshot, TokenDataset
from pipeline.storage import Store

_WARM_UP = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line says."""

    corpus: str
    out: str
    steps: int
    batch: int
    patch: int
    width: int
    depth: int
    lr: float
    samples: int
    seed: int
    loaders: int
    workers: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "patch", "width", "depth", "samples"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"--{name} {value}: must be 1 or more")


Build = Callable[[Snapshot, TokenizerColumn, Settings], nn.Module]
"""Makes a generator of the cells of one tokenizer of a dataset: a module with

- `forward(cells)`: the loss on cells [B, …] as the reader gives them, in `loss_unit`,
- `sample(num, shape)`: new cells [num, *shape], for the tokenizer to decode,
- `distances(cells, others)`: how far [n, …] are from [m, …], as [n, m] in `distance_unit`.
"""


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
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loaders", type=int, default=0, help="processes that read, per rank")
    parser.add_argument("--workers", type=int, default=0, help="ranks on Ray; 0: this process")
    asked = vars(parser.parse_args())
    try:
        result = run(Settings(**asked), kind, build)
    except PipelineError as error:
        sys.exit(str(error))
    print(
        "corpus     version {version}\n"
        "parameters {parameters:,}\n"
        "loss       {loss_start:.3f} → {loss_end:.3f} {loss_unit}, {ranks} ranks, {seconds:.0f} s\n"
        "samples    differ from the nearest of {compared} clips by {nearest} {distance_unit}"
        "".format(**result)
    )
    print(f"written    {asked['out']}: loss.png, samples.gif, samples.jpg, model.pt")


def run(settings: Settings, kind: str, build: Build) -> dict[str, Any]:
    """Train here, or on Ray; return what `train` does."""
    version = pipeline.open(settings.corpus).version  # one for all ranks, though a job adds to it
    if settings.workers == 0:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return train(settings, kind, build, version, device)
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    changes = {name: canonical_uri(getattr(settings, name)) for name in ("corpus", "out")}
    settings = Settings(**{**asdict(settings), **changes})  # Ray Train changes the folder
    given = {"settings": settings, "kind": kind, "build": build, "version": version}
    with connect() as cluster, tempfile.TemporaryDirectory() as scratch:
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config=given,
            scaling_config=ScalingConfig(num_workers=settings.workers, use_gpu=cluster.gpus > 0),
            run_config=RunConfig(storage_path=scratch),
        )
        return dict(trainer.fit().return_value)  # of the first rank


def _ray_worker(given: dict[str, Any]) -> dict[str, Any]:
    from ray.train.torch import get_device

    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where collectives of Python objects meet
    return train(**given, device=device)


def train(
    settings: Settings, kind: str, build: Build, version: int, device: torch.device
) -> dict[str, Any]:
    """Train on this rank; the first one draws samples and writes them beside the weights.

    Args:
        settings: of the run.
        kind: of tokenizer.
        build: makes the generator.
        version: of the dataset.
        device: of this rank.

    Returns:
        Loss at the start and at the end, version, ranks, seconds of training, parameters; on the
        first rank also what `draw_samples` returns.

    Raises:
        ConfigError: the dataset and the settings do not fit each other.
    """
    corpus = pipeline.open(settings.corpus, version)
    column = next((each for each in corpus.tokenizers if each.kind == kind), None)
    if column is None:
        has = ", ".join(f"{each.name} ({each.kind})" for each in corpus.tokenizers)
        raise ConfigError(f"{settings.corpus}: has no tokenizer of kind {kind}; it has {has}")
    together = distributed.is_initialized()
    rank, ranks = (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)
    torch.manual_seed(settings.seed)
    generator = build(corpus, column, settings).to(device)
    parallel = DistributedDataParallel(generator) if together else generator
    optimizer = torch.optim.AdamW(generator.parameters(), settings.lr, betas=(0.9, 0.95))
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: _rate(n, settings.steps))
    torch.manual_seed(settings.seed + rank)  # each rank draws its own noise
    losses: list[float] = []
    begin = time.perf_counter()
    for step, batch in zip(range(settings.steps), endless(corpus, column, settings), strict=False):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = parallel(batch[column.name].to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimizer.step()
        rate.step()
        losses.append(loss.item())
        if rank == 0 and step % max(1, settings.steps // 10) == 0:
            print(f"step {step:>7}  loss {losses[-1]:.4f}", flush=True)
    last = losses[-max(1, settings.steps // 20) :]
    result = {
        "loss_start": losses[0],
        "loss_end": sum(last) / len(last),
        "loss_unit": generator.loss_unit,
        "version": version,
        "ranks": ranks,
        "seconds": time.perf_counter() - begin,
        "parameters": sum(weights.numel() for weights in generator.parameters()),
    }
    if rank == 0:
        store = Store(settings.out)
        store.write("loss.png", _curve(losses, generator.loss_unit))
        file = io.BytesIO()
        torch.save(generator.state_dict(), file)
        store.write("model.pt", file.getvalue())
        torch.manual_seed(settings.seed)
        generator.eval()
        result |= draw_samples(generator, corpus, column, batch, settings.samples, store)
    return result


def endless(
    corpus: Snapshot, column: TokenizerColumn, settings: Settings
) -> Iterator[dict[str, Any]]:
    """Yield full batches, epoch after epoch, as many on every rank.

    Raises:
        ConfigError: the dataset has too few clips.
    """
    # Full batches only: ranks meet in every step, so none may have one more than the others.
    data = TokenDataset(
        corpus,
        [column.name, "num_frames"],
        settings.batch,
        buckets=clip_buckets(corpus),
        seed=settings.seed,
        drop_last=True,
    )
    if not len(data):
        raise ConfigError(
            f"--batch {settings.batch}: {settings.corpus} has {corpus.buckets} clips, and each of"
            f" {data.world} ranks needs a full batch of one shape, not all…; take a smaller one"
        )
    loader = DataLoader(
        data,
        batch_size=None,
        num_workers=settings.loaders,
        persistent_workers=settings.loaders > 0,
    )
    for epoch in count():
        data.set_epoch(epoch)
        yield from loader


def clip_buckets(corpus: Snapshot) -> list[str]:
    """Return the buckets whose clips are of one length: not those of whole videos."""
    return [name for name in corpus.buckets if not name.startswith("all")]


def _rate(step: int, steps: int) -> float:
    """Return the learning rate's factor: up over some steps, then down along a cosine."""
    return min(1.0, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


def _curve(losses: list[float], unit: str) -> bytes:
    """Return a PNG of the loss over steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(losses, linewidth=1)
    axes.set(xlabel="steps", ylabel=f"loss, {unit}", yscale="log")
    axes.grid(alpha=0.3)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()
