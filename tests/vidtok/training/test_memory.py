"""What a pass keeps for its backward pass, and which blocks are computed again to make it fit."""

import logging
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import Tokenizer, free_memory
from vidtok.training import memory
from vidtok.training.network import TrainedTokenizer
from vidtok.training.objective import ObjectiveConfig
from vidtok.training.trainer import Trainer, TrainerConfig

PIXELS = ObjectiveConfig(perceptual_weight=0, discriminator=None)


def clips(batch: int, side: int) -> Tensor:
    video = synthetic_video(batch, 5, side, side)
    return ((video + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).contiguous()


def network(
    name: str = "causal_v1_0", autocast: torch.dtype | None = None
) -> tuple[TrainedTokenizer, Callable[[Tensor], object], set[torch.UntypedStorage]]:
    """Return a network, its pass over clips, and the storages of its weights."""
    trained = TrainedTokenizer(small(name).train(), autocast=autocast)
    weights = {weight.untyped_storage() for weight in trained.parameters()}
    return trained, partial(trained, step=0), weights


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["causal_v1_0", "causal_v1_1"])
def test_small_clips_tell_what_large_ones_keep(name: str, autocast: torch.dtype | None) -> None:
    trained, run, weights = network(name, autocast)
    large = clips(2, 64)
    estimated = memory.estimate(run, large, trained.blocks, trained.parameters())
    kept = memory.kept_by(lambda: run(large), trained.blocks, weights)
    assert estimated.total == pytest.approx(kept.total, rel=0.02)
    assert estimated.blocks == pytest.approx(kept.blocks, rel=0.02)
    assert estimated.inputs == kept.inputs
    # Most of it is in the blocks, and float32 keeps more than a frame's worth of each layer.
    assert 0.75 * kept.total < sum(kept.blocks) < kept.total
    assert kept.total > 100 * large.numel()


def test_what_is_kept_is_what_autograd_holds() -> None:
    weight = torch.ones(10, 10, requires_grad=True)
    x = torch.ones(5, 10)

    def run() -> Tensor:
        h = (x @ weight).exp()  # the product keeps x, exp its result
        return h[1:] * h[:-1]  # views of the same result

    kept = memory.kept_by(run, [], {weight.untyped_storage()})
    assert kept.total == 5 * 10 * 4 + 5 * 10 * 4


def test_blocks_of_the_highest_resolution_come_first_and_only_as_many_as_needed() -> None:
    trained, run, weights = network()
    names = [name for name, m in trained.tokenizer.named_modules() if m in trained.blocks]
    assert len(names) == len(trained.blocks) > 10
    video = clips(1, 48)
    kept = memory.kept_by(lambda: run(video), trained.blocks, weights)
    assert memory.to_fit(kept, math.inf) == ([], kept.total)

    chosen, takes = memory.to_fit(kept, 0.8 * kept.total)
    assert 0.6 * kept.total < takes <= 0.8 * kept.total
    assert {names[i].split(".block.")[0] for i in chosen} <= {
        "decoder.up.0", "decoder.up_temporal.0", "encoder.down.0", "encoder.down_temporal.0"
    }  # fmt: skip
    assert memory.to_fit(kept, 0.8 * kept.total + 1)[0] == chosen
    memory.recompute(trained.blocks[i] for i in chosen)
    now = memory.kept_by(lambda: run(video), [], weights).total
    again = max(kept.blocks[i] for i in chosen)
    assert takes - again == pytest.approx(now, rel=0.1)
    assert now <= takes - again  # the estimate is on the safe side

    most, least = memory.to_fit(kept, 0)
    assert len(most) > 0.9 * len(names)
    assert least < 0.6 * kept.total


class Recorder:
    """A network that counts how often its last block is computed."""

    def __init__(self) -> None:
        self.tokenizer: Tokenizer = small("causal_v1_0", "kl")
        self.passes = 0
        self.tokenizer.decoder.up[0].block[0].norm1.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.passes += 1


@pytest.mark.parametrize(
    ("free", "says", "level"),
    [
        (math.inf, "0 of 28 blocks are computed again", logging.INFO),
        (0.0, "28 of 28 blocks are computed again", logging.WARNING),
    ],
)
def test_the_trainer_computes_again_what_does_not_fit(
    free: float,
    says: str,
    level: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="vidtok.training.trainer")
    monkeypatch.setattr(free_memory, "free_bytes", lambda device: free)
    losses, passes = [], []
    for recompute in ("auto", bool(free == 0)):
        recorder = Recorder()
        torch.manual_seed(0)  # KL draws noise; a measurement must not take any of it
        config = TrainerConfig(recompute=recompute, precision="float32")
        run = Trainer(recorder.tokenizer, config, PIXELS, None)
        losses.append([float(run.train_on(clips(1, 32))["loss"]) for _ in range(2)])
        passes.append(recorder.passes)
    assert losses[0] == losses[1]
    assert passes[0] == passes[1] + 2 == 2 * (2 if free == 0 else 1) + 2
    [record] = caplog.records
    assert (says in record.getMessage(), record.levelno) == (True, level)
