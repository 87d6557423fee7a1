"""Training steps of a tokenizer, and their state.

The caller provides the batches and starts the processes. With a process group, every rank takes its
own clips, and gradients are averaged over ranks.
Source: VidTok, arXiv 2412.13061; constants of the released configurations are the defaults.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from vidtok.autoencoder import Tokenizer
from vidtok.training.ema import averaged_model
from vidtok.training.network import Reconstruction, TrainedTokenizer
from vidtok.training.objective import Objective, ObjectiveConfig, Perceptual
from vidtok.training.ranks import in_group


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """Settings of the optimizers and of the average."""

    train: Literal["all", "decoder"] = "all"
    """Part that is trained. `decoder` leaves the encoder as it is, as in the second stage."""
    steps: int = 50_000
    """Number of batches, at which the schedule ends."""
    lr: float = 1e-5
    """Learning rate of both optimizers (Adam)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of both optimizers' moments."""
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
    precision: Literal["float32", "bf16"] = "bf16"
    """Type that the convolutions compute in; float32 on CPUs that are slower in bfloat16. Losses
    are always float32."""
    recompute: bool = False
    """Whether the backward pass recomputes activations: less memory, more time."""

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
            recompute=config.recompute,
        )
        self._objective = Objective(objective, perceptual).to(device)
        judges = "discriminator."
        self._weights = [
            p for p in (*self._network.parameters(), self._objective.logvar) if p.requires_grad
        ]
        self._judging = [
            p for name, p in self._objective.named_parameters() if name.startswith(judges)
        ]
        for tensor in (*self._network.parameters(), *self._objective.parameters()):
            _broadcast(tensor)
        self._average = averaged_model(tokenizer, config.ema_decay)
        self._optimizers = [
            torch.optim.Adam(weights, config.lr, config.betas)
            for weights in (self._weights, self._judging)
            if weights
        ]

    @property
    def averaged(self) -> Tokenizer:
        """Tokenizer with the averaged weights, in eval mode. It is shared, not a copy."""
        module = self._average.module
        assert isinstance(module, Tokenizer)
        return module.eval()

    def train_on(self, clips: Tensor) -> dict[str, float]:
        """Take one step of the autoencoder, then one of the discriminator.

        Both use one reconstruction, which is made before the first step, as in the release.

        Args:
            clips: uint8 `[B, T, H, W, 3]`.

        Returns:
            The losses of this rank and their parts.
        """
        lr = self.config.lr_at(self.step)
        clips = clips.to(self._objective.logvar.device, non_blocking=True)
        made: Reconstruction = self._network(clips, self.step)
        loss, log = self._objective.autoencoder_loss(
            made.x, made.x_hat, made.regularizer, self._network.last_weight, self.step
        )
        norm = self._move(0, loss, self._weights, lr)
        log |= made.parts | {"gradient_norm": norm}
        if self._objective.adversarial_at(self.step):
            loss, judged = self._objective.discriminator_loss(made.x, made.x_hat, self.step)
            norm = self._move(1, loss, self._judging, lr)
            log |= judged | {"discriminator_gradient_norm": norm}
        self._average.update_parameters(self._network.tokenizer)
        self.step += 1
        return {"lr": lr} | {name: float(value) for name, value in log.items()}

    def _move(self, which: int, loss: Tensor, weights: list[nn.Parameter], lr: float) -> Tensor:
        optimizer = self._optimizers[which]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        _average_gradients(weights)
        norm = nn.utils.clip_grad_norm_(weights, self.config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return the state that the next step depends on, without random generators.

        It holds tensors and plain values only: `torch.load(…, weights_only=True)` reads it.
        """
        return {
            "step": self.step,
            "tokenizer": self._network.tokenizer.state_dict(),
            "objective": self._objective.state_dict(),
            "average": self._average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of `state_dict`.

        Raises:
            RuntimeError: the state belongs to another network or objective.
        """
        self.step = state["step"]
        self._network.tokenizer.load_state_dict(state["tokenizer"])
        self._objective.load_state_dict(state["objective"])
        self._average.load_state_dict(state["average"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def _broadcast(tensor: Tensor) -> None:
    if in_group():
        distributed.broadcast(tensor.detach(), src=0)


def _average_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Average gradients over ranks, in one message."""
    if not in_group():
        return
    gradients = [p.grad for p in weights if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    averaged = torch.split(flat, [g.numel() for g in gradients])
    for gradient, mean in zip(gradients, averaged, strict=True):
        gradient.copy_(mean.view_as(gradient))
