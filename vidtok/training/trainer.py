"""Training steps of a tokenizer, and their state.

The caller provides the batches and starts the processes. With a process group, every rank takes its
own clips, and gradients are averaged over ranks while they are computed. No step waits for the
device: the values that it returns stay there.
Source: VidTok, arXiv 2412.13061; constants of the released configurations are the defaults.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidtok import free_memory
from vidtok.autoencoder import Tokenizer
from vidtok.digest import weights_digest
from vidtok.training import memory
from vidtok.training.ema import MovingAverage
from vidtok.training.muon import Muon
from vidtok.training.network import TrainedTokenizer
from vidtok.training.objective import Objective, ObjectiveConfig, Perceptual
from vidtok.training.ranks import averaging, data_parallel, trained_weights

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """Settings of the optimizers and of the average."""

    train: Literal["all", "decoder"] = "all"
    """Part that is trained. `decoder` leaves the encoder as it is, as in the second stage."""
    steps: int = 50_000
    """Number of batches, at which the schedule ends."""
    lr: float = 1e-5
    """Learning rate of both optimizers."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Optimizer of the autoencoder. `muon` takes Muon for kernels of convolutions and Adam for the
    rest; see `vidtok.training.muon`. That of the discriminator is Adam."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of Adam's moments."""
    warmup_steps: int = 0
    """Number of batches over which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Schedule of the learning rate. `cosine` falls to `final_lr` at the last step."""
    final_lr: float = 0.0
    """Fraction of `lr` at the end of `cosine`."""
    clip_norm: float = 20.0
    """Maximum norm of the gradients of each optimizer; longer gradients are scaled to it."""
    ema_decay: float = 0.999
    """Fraction of the averaged weights that each step keeps."""
    precision: Literal["float32", "tf32", "bf16"] = "bf16"
    """Arithmetic of the convolutions. `tf32` is float32 in which a GPU may round the factors of
    products to 10 bits. CPUs that are slower in bfloat16 compute in float32. Losses are float32;
    with `tf32` their products are rounded, too."""
    accumulate: int = 1
    """Number of equal parts of a batch. They pass one after another before the weights move."""
    recompute: Literal["auto"] | bool = "auto"
    """Whether the backward pass computes activations again: less memory, more time. `auto`: as many
    blocks as the free memory of the device requires, the largest first."""
    nested: Sequence[int] | None = None
    """Numbers of FSQ channels, of which each clip draws one; see `vidtok.training.prefixes`. None
    trains with all channels."""

    def lr_at(self, step: int) -> float:
        """Return the learning rate after `step` batches."""
        lr = self.lr
        if self.schedule == "cosine":
            after = max(0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
            share = 0.5 + 0.5 * math.cos(math.pi * min(1.0, after))
            lr *= self.final_lr + (1 - self.final_lr) * share
        return lr * min(1.0, (step + 1) / max(1, self.warmup_steps))


class Trainer:
    """Training of one tokenizer, in place.

    Args:
        tokenizer: float32 network on the device that trains it.
        config: settings of the optimizers and of the average.
        objective: weights of the losses' terms.
        perceptual: distance of pictures for the objective's perceptual term.

    Attributes:
        step: number of batches so far.
        averaged: tokenizer with the weights averaged over steps, to evaluate and keep.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: TrainerConfig,
        objective: ObjectiveConfig,
        perceptual: Perceptual | None,
    ) -> None:
        device = tokenizer.device
        self.config = config
        self.step = 0
        self._network = TrainedTokenizer(
            tokenizer.train(),
            freeze_encoder=config.train == "decoder",
            autocast=torch.bfloat16 if config.precision == "bf16" else None,
            nested=config.nested,
        )
        self._objective = Objective(objective, perceptual).to(device)
        weights = [*self._network.parameters(), self._objective.logvar]
        self._autoencoder = data_parallel(weights, self._autoencoder_loss)
        learners = [self._autoencoder]
        if objective.discriminator is not None:
            judging = self._objective.discriminator.parameters()
            self._judge = data_parallel(judging, self._objective.discriminator_loss)
            learners.append(self._judge)
        self._average = MovingAverage(self._network, config.ema_decay)
        fused = device.type in ("cpu", "cuda")  # one pass over all weights and moments
        kinds = [Muon if config.optimizer == "muon" else torch.optim.Adam, torch.optim.Adam]
        self._optimizers: list[torch.optim.Optimizer] = [
            kind(trained_weights(learner), config.lr, config.betas, fused=fused)
            for kind, learner in zip(kinds, learners, strict=False)
        ]
        self._undecided = config.recompute == "auto"
        if config.recompute is True:
            memory.recompute(self._network.blocks)

    @property
    def averaged(self) -> Tokenizer:
        """Tokenizer with the averaged weights, in eval mode. It is shared, not a copy.

        With `nested` it has the order of channels that it was trained with, otherwise none.
        """
        network = self._average.model
        tokenizer, prefixes = network.tokenizer, network.prefixes
        tokenizer.channels = None
        if prefixes is not None:
            digest = weights_digest(tokenizer.state_dict())
            tokenizer.channels = prefixes.channel_order(digest)
        return tokenizer

    def train_on(self, clips: Tensor) -> dict[str, Tensor | float]:
        """Take one step of the autoencoder and one of the discriminator.

        Both use one reconstruction, which is made before the first step, as in the release.

        Args:
            clips: uint8 `[B, T, H, W, 3]`; B must be a multiple of `accumulate`.

        Returns:
            The losses of this rank and their parts, as float32 scalars on the device; `lr` is a
            float.

        Raises:
            ValueError: `accumulate` does not divide the batch.
        """
        if len(clips) % (parts := self.config.accumulate):
            raise ValueError(f"accumulate = {parts}: must divide the batch of {len(clips)} clips")
        lr = self.config.lr_at(self.step)
        clips = clips.to(self._objective.logvar.device, non_blocking=True)
        with _arithmetic(tf32=self.config.precision == "tf32"):
            if self._undecided:
                self._fit(clips[: len(clips) // parts])
            log = self._add_gradients(clips.chunk(parts))
            log["gradient_norm"] = self._move(self._optimizers[0], lr)
            if self._objective.adversarial_at(self.step):
                log["discriminator_gradient_norm"] = self._move(self._optimizers[1], lr)
        self._average.update(self._network, self.step)
        self.step += 1
        return {"lr": lr, **log}

    def _fit(self, part: Tensor) -> None:
        """Compute blocks again if passes over parts like this one take too much memory."""
        self._undecided = False
        device, objective, blocks = part.device, self._objective, self._network.blocks
        if (free := free_memory.free_bytes(device)) is None:
            return
        step = max(self.step, objective.config.discriminator_start)
        weights = [*self._network.parameters(), *objective.parameters()]
        objective.eval()  # a measurement leaves no trace in the discriminator's statistics
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            kept = memory.estimate(
                lambda clips: self._autoencoder_loss(clips, step), part, blocks, weights
            )
        objective.train()
        if not self._optimizers[0].state:  # gradients and two moments are still to come
            free -= 3 * sum(p.nbytes for p in weights if p.requires_grad)
        chosen, takes = memory.to_fit(kept, free)
        memory.recompute(blocks[i] for i in chosen)
        level = logging.WARNING if takes > free else logging.INFO
        _log.log(
            level,
            "a pass keeps %.1f GiB for its backward pass and may take %.1f: %d of %d blocks are"
            " computed again, which leaves %.1f",
            *(kept.total / 2**30, free / 2**30, len(chosen), len(blocks), takes / 2**30),
        )

    def _add_gradients(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the gradients of the mean of the parts' losses. Return the means for the log."""
        sums = torch.zeros((), device=parts[0].device)
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with averaging(self._autoencoder, when=last):
                loss, log, x, x_hat = self._autoencoder(part, self.step)
                (loss / len(parts)).backward()
            if self._objective.adversarial_at(self.step):
                with averaging(self._judge, when=last):
                    loss, judged = self._judge(x, x_hat, self.step)
                    (loss / len(parts)).backward()
                log |= judged
            sums = sums + torch.stack([*log.values()])
        return dict(zip(log, (sums / len(parts)).unbind(), strict=True))

    def _autoencoder_loss(
        self, clips: Tensor, step: int
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor]:
        """Return the loss, its parts, the clips as the network sees them, and what it makes."""
        made = self._network(clips, step)
        loss, log = self._objective.autoencoder_loss(
            made.x, made.x_hat, made.regularizer, self._network.last_weight, step
        )
        return loss, log | made.parts, made.x, made.x_hat.detach()

    def _move(self, optimizer: torch.optim.Optimizer, lr: float) -> Tensor:
        """Take one step, and drop the gradients. Return their norm before it was limited."""
        (group,) = optimizer.param_groups
        norm = nn.utils.clip_grad_norm_(group["params"], self.config.clip_norm)
        group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next step depends on, without random generators.

        It holds tensors and plain values only: `torch.load(…, weights_only=True)` reads it.
        """
        return {
            "step": self.step,
            "network": self._network.state_dict(),
            "objective": self._objective.state_dict(),
            "average": self._average.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`. Settings of the optimizers are those of `config`.

        Raises:
            RuntimeError: the state belongs to another network or objective.
            ValueError: the state belongs to another optimizer, or to another `nested`.
        """
        if state["optimizers"][0].keys() != self._optimizers[0].state_dict().keys():
            raise ValueError(f"the state belongs to another optimizer than {self.config.optimizer}")
        self.step = state["step"]
        self._network.load_state_dict(state["network"])
        self._objective.load_state_dict(state["objective"])
        self._average.model.load_state_dict(state["average"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            optimizer.param_groups[0]["betas"] = self.config.betas


@contextmanager
def _arithmetic(*, tf32: bool) -> Iterator[None]:
    """Allow TensorFloat-32 or not, and let cuDNN time its algorithms; restore both afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = tf32, tf32, True
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before
