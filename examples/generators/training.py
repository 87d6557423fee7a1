"""Train a generator on a column of a dataset.

    pipeline.open ─► open_clips ─► generator(cells) = losses ─► AdamW ─► averaged weights
                         └───────────── checkpoint.pt ──────────────────────┘
                                   generator.sample ─► tokenizer ─► samples.gif, samples.jpg

`train` serves one process and many: the reader asks torch.distributed for its rank. A run that is
stopped and resumed ends with the same weights, bit for bit on a CPU: the checkpoint holds the
reader's position, and the noise of a step follows from seed, step and rank.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import pipeline
from examples.generators import checkpoint, losses
from examples.generators.clips import endless, is_held_out, open_clips
from examples.generators.samples import draw_samples
from pipeline.errors import ConfigError
from pipeline.reading import Snapshot, TokenizerColumn
from pipeline.storage import Store
from vidtok.training import MovingAverage

_WARM_UP = 20
_MAY_CHANGE = frozenset({"corpus", "out", "samples", "loaders", "workers", "save_every"})
"""Settings that a resumed run may change; the reader itself checks that the corpus is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of the command line."""

    corpus: str
    out: str
    steps: int
    batch: int
    patch: int
    width: int
    depth: int
    lr: float
    ema: float
    held_out: float
    samples: int
    seed: int
    save_every: int
    loaders: int
    workers: int
    channels: int | None = None
    """Number of FSQ channels that are read and generated; None for all."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "patch", "width", "depth", "samples", "save_every"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be 1 or more")
        for name in ("ema", "held_out"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be from 0 to below 1")

    def kept(self, column: TokenizerColumn) -> dict[str, int]:
        """Return the FSQ channels of a column to keep, as readers take them."""
        return {} if self.channels is None else {column.name: self.channels}

    def identity(self, kind: str) -> dict[str, Any]:
        """Return the settings that a resumed run must share with its checkpoint."""
        mine = {name: value for name, value in asdict(self).items() if name not in _MAY_CHANGE}
        return {"kind": kind} | mine


Build = Callable[[Snapshot, TokenizerColumn, Settings], nn.Module]
"""Makes a generator of the cells of one tokenizer of a dataset: a module with

- `forward(cells)`: the losses [B] on cells [B, …] as the reader gives them, in `loss_unit`,
- `sample(num, shape)`: new cells [num, *shape], for the tokenizer to decode,
- `distances(cells, others)`: distances of [n, …] from [m, …], as [n, m] in `distance_unit`,
- `bits_per_loss`: bits of a token per unit of loss; None if the loss is not a likelihood.
"""


def train(
    settings: Settings,
    kind: str,
    build: Build,
    version: int,
    device: torch.device,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Train on this rank; the first rank also draws samples and writes them beside the weights.

    A checkpoint in `settings.out` is resumed.

    Args:
        settings: settings of the run.
        kind: kind of tokenizer.
        build: makes the generator.
        version: version of the dataset.
        device: device of this rank.
        tell: takes lines about progress, from the first rank.

    Returns:
        Losses at the start, at the end, and of held-out clips at the end (NaN without any);
        version, ranks, seconds of training, parameters; on the first rank also the result of
        `draw_samples`.

    Raises:
        ConfigError: the dataset, the settings and the checkpoint do not fit each other.
    """
    store = Store(settings.out)
    corpus = pipeline.open(settings.corpus, version)
    column = next((each for each in corpus.tokenizers if each.kind == kind), None)
    if column is None:
        has = ", ".join(f"{each.name} ({each.kind})" for each in corpus.tokenizers)
        raise ConfigError(f"{settings.corpus}: has no tokenizer of kind {kind}; it has {has}")
    data = open_clips(corpus, column, settings.batch, settings.seed, settings.kept(column))
    torch.manual_seed(settings.seed)
    generator = build(corpus, column, settings).to(device)
    averaged = MovingAverage(generator, settings.ema)
    optimizer = torch.optim.AdamW(generator.parameters(), settings.lr, betas=(0.9, 0.95))
    trained: list[float] = []
    held_out: list[float] = []
    seconds = 0.0
    if saved := checkpoint.load(store, settings.identity(kind)):
        generator.load_state_dict(saved["generator"])
        averaged.model.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        data.load_state_dict(saved["reader"])
        trained, held_out, seconds = (saved[name] for name in ("trained", "held_out", "seconds"))
    together = distributed.is_initialized()
    parallel = DistributedDataParallel(generator) if together else generator
    batches = endless(data, settings.loaders)
    begin = time.perf_counter() - seconds
    for step in range(len(trained), settings.steps):
        batch = next(batches)
        held = torch.tensor([is_held_out(key, settings.held_out) for key in batch["key"]])
        torch.manual_seed(Random(f"{settings.seed}/{step}/{data.rank}").getrandbits(63))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            each = parallel(batch[column.name].to(device))
        # Ranks synchronise in every step, so held-out clips get weight 0 instead of being dropped.
        loss = (each * ~held.to(device)).sum() / (~held).sum().clamp(min=1)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * _rate(step, settings.steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimizer.step()
        averaged.update(generator, step)
        values = each.detach().cpu()
        trained.append(values[~held].mean().item())
        held_out.append(values[held].mean().item())
        if data.rank == 0:
            if step % max(1, settings.steps // 10) == 0:
                tell(f"step {step:>7}  loss {trained[-1]:.4f}")
            if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
                state = {
                    "version": version,
                    "generator": generator.state_dict(),
                    "averaged": averaged.model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "reader": data.state_after(batch),
                    "trained": trained,
                    "held_out": held_out,
                    "seconds": time.perf_counter() - begin,
                }
                checkpoint.save(store, settings.identity(kind), state)
    result = {
        "loss_start": losses.mean(trained[: max(1, len(trained) // 20)]),
        "loss_end": losses.at_end(trained),
        "loss_held_out": losses.at_end(held_out),
        "loss_unit": generator.loss_unit,
        "bits_per_loss": generator.bits_per_loss,
        "version": version,
        "ranks": data.world,
        "seconds": time.perf_counter() - begin,
        "parameters": sum(weights.numel() for weights in generator.parameters()),
    }
    if data.rank == 0:
        store.write("loss.png", losses.curve(trained, held_out, generator.loss_unit))
        store.write("model.pt", checkpoint.packed(averaged.model.state_dict()))
        torch.manual_seed(settings.seed)
        result |= draw_samples(
            averaged.model, corpus, column, settings.samples, store, settings.channels
        )
    return result


def _rate(step: int, steps: int) -> float:
    """Return the factor of the learning rate: linear warm-up, then a cosine."""
    return min(1.0, (step + 1) / _WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
