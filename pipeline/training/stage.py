"""One stage on one rank: batches in, weights out, from the last checkpoint on."""

import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import vidtok
from pipeline.errors import ConfigError
from pipeline.storage.store import Store
from pipeline.training import checkpoints
from pipeline.training.clips import TrainingClips
from pipeline.training.config import ObjectiveSection, StageConfig, TrainConfig
from pipeline.training.run_log import Record
from pipeline.training.validation import held_out_clips, validate
from vidtok.checkpoint import save
from vidtok.lpips import load_lpips
from vidtok.presets import named_config
from vidtok.training.even_levels import even_levels
from vidtok.training.objective import Perceptual
from vidtok.training.perceptual import structural_distance
from vidtok.training.trainer import Trainer
from vidtok.training.warm_start import warm_start

WEIGHTS = "model.safetensors"


_CLIPS_TO_FIT = 48


@dataclass(frozen=True, slots=True)
class Rank:
    """Which of the processes that train together this one is."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"


Tell = Callable[[str], None]


def train_stages(config: TrainConfig, rank: Rank, tell: Tell) -> None:
    """Run all stages that are not complete, each beginning with the weights of the one before.

    Args:
        config: the run.
        rank: of this process.
        tell: takes lines about progress; called on the first rank alone.

    Raises:
        ConfigError: weights, clips or videos are not what the configuration says.
    """
    tell = tell if rank.rank == 0 else lambda _: None
    before: Store | None = None
    for number, stage in enumerate(config.stages, 1):
        store = Store(f"{config.output}/{number}-{stage.name}", config.storage_options)
        if store.exists(WEIGHTS):
            tell(f"{stage.name}: complete")
        else:
            _Stage(config, stage, store, before, rank, tell).run()
        before = store


class _Stage:
    def __init__(
        self,
        config: TrainConfig,
        stage: StageConfig,
        store: Store,
        before: Store | None,
        rank: Rank,
        tell: Tell,
    ) -> None:
        self._config, self._stage, self._store, self._rank = config, stage, store, rank
        self._tell = tell
        saved = checkpoints.load_last(store, rank=rank.rank)
        torch.manual_seed(config.seed + rank.rank)
        tokenizer = self._initial(before)
        if saved is None and rank.rank == 0:  # the other ranks get their weights from this one
            self._fit(tokenizer, drawn=before is None and config.weights is None)
        tokenizer = tokenizer.to(rank.device)
        perceptual, self._perceptual_name = _perceptual(stage.objective, rank.device)
        kl = tokenizer.config.regularizer == "kl"
        self._trainer = Trainer(tokenizer, stage.trainer(), stage.terms(kl=kl), perceptual)
        self._clips = TrainingClips(
            config.clips(stage),
            stage.batch,
            rank=rank.rank,
            world=rank.world,
            workers=config.loaders,
        )
        if saved is not None:
            self._go_on_from(*saved)
        self._record: Record | None = None
        self._held_out = []
        if rank.rank == 0:
            if config.validation is not None and (held_out := config.held_out(stage)):
                self._held_out = held_out_clips(held_out, fps=config.validation.fps)
            self._record = Record(store, self._trainer.step)

    def _initial(self, before: Store | None) -> vidtok.Tokenizer:
        """Return the weights that the stage begins with."""
        config, model = self._config, self._config.model_of(self._stage)
        if before is not None:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / WEIGHTS
                path.write_bytes(before.read(WEIGHTS))
                return _as_model(vidtok.load(path), model, f"stage {self._stage.name}")
        if config.weights is not None:
            where = f"weights = {config.weights}"
            try:
                # A .ckpt does not say what it is; its tensors are checked either way.
                named = model if config.weights.endswith(".ckpt") else None
                source = config.model if config.weights == "hub" else config.weights
                return _as_model(vidtok.load(source, config=named), model, where)
            except (ValueError, OSError, ImportError) as error:
                raise ConfigError(f"{where}: {error}") from error
        return vidtok.build(model, seed=config.seed)

    def _fit(self, tokenizer: vidtok.Tokenizer, *, drawn: bool) -> None:
        """Fit what least squares can fit before gradients begin."""
        warm, even = self._config.warm_start and drawn, self._stage.even_levels
        if not warm and not even:
            return
        config = self._config.clips(self._stage)
        with closing(TrainingClips(config, _CLIPS_TO_FIT)) as clips:
            some = next(clips).float() / 127.5 - 1
        if warm:
            self._tell("fitting the linear path to the corpus")
            warm_start(tokenizer, some, seed=self._config.seed)
        if even:
            self._tell("stretching the latents over FSQ's levels")
            even_levels(tokenizer, some)

    def _go_on_from(self, shared: dict[str, Any], own: dict[str, Any]) -> None:
        try:
            self._trainer.load_state_dict(shared)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"output = {self._store.uri}: holds checkpoints of another network or objective;"
                " go on with that, or choose another output"
            ) from error
        self._clips.load_state_dict(own["clips"])
        checkpoints.set_random_state(own["random"])

    def run(self) -> None:
        """Train to the stage's last batch and write its weights."""
        try:
            self._train()
        finally:
            self._clips.close()
            if self._record is not None:
                self._record.close()

    def _train(self) -> None:
        trainer, stage, config = self._trainer, self._stage, self._config
        self._tell(
            f"{stage.name}: {trainer.step} of {stage.steps} batches done; "
            f"perceptual term: {self._perceptual_name}"
        )
        if self._record is not None and trainer.step == 0:
            self._record.note(0, {"perceptual": self._perceptual_name, "config": config.public()})
            self._validate()
        while trainer.step < stage.steps:
            values = trainer.train_on(next(self._clips))
            step = trainer.step
            if self._record is not None:
                # Also at a checkpoint: a resumed run begins with no batch of the next line's.
                ends = (config.log_every, config.checkpoint_every, stage.steps)
                due = any(step % end == 0 for end in ends)
                if means := self._record.batch(step, values, due=due):
                    self._tell(_line(stage.name, step, stage.steps, means))
                if config.validation and step % config.validation.every == 0:
                    self._validate()
            if step % config.checkpoint_every == 0 and step < stage.steps:
                self._checkpoint()
        if self._record is not None:
            if config.validation and stage.steps % config.validation.every:
                self._validate()
            for video, why in self._clips.skipped.items():
                self._record.note(trainer.step, {"skipped": video, "why": why})
            self._record.save()
            self._store.write(WEIGHTS, _safetensors(trainer.averaged))
            self._tell(f"{stage.name}: {self._store.locate(WEIGHTS)}")
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()

    def _validate(self) -> None:
        if not self._held_out or self._record is None:
            return
        scores, picture = validate(self._trainer.averaged, self._held_out)
        self._record.validation(self._trainer.step, scores, picture)
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self._tell(f"{self._stage.name} {self._trainer.step}: held out: {text}")

    def _checkpoint(self) -> None:
        if self._record is not None:
            self._record.save()
        checkpoints.save(
            self._store,
            self._trainer.step,
            self._trainer.state_dict(),
            {"clips": self._clips.state_dict()},
            rank=self._rank.rank,
            keep=self._config.keep_checkpoints,
        )


def _as_model(tokenizer: vidtok.Tokenizer, model: str, where: str) -> vidtok.Tokenizer:
    """Return the tokenizer under another name; v1.0 and v1.1 have the same tensors.

    Raises:
        ConfigError: that one has other tensors.
    """
    if named_config(model).digest == tokenizer.config.digest:
        return tokenizer
    wanted = vidtok.build(model, seed=0)
    try:
        wanted.load_state_dict(tokenizer.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"{where}: has the tensors of {tokenizer.config.name}, not of {model}"
        ) from error
    return wanted


def _perceptual(terms: ObjectiveSection, device: str) -> tuple[Perceptual | None, str]:
    """Return the distance of pictures that can be had, and its name."""
    if terms.perceptual == "none":
        return None, "none"
    if terms.perceptual == "structural":
        return structural_distance, "structural (edges and SSIM; not LPIPS)"
    try:
        return load_lpips(Path(terms.vgg16) if terms.vgg16 else None).to(device), "lpips"
    except (FileNotFoundError, ValueError) as error:
        if terms.perceptual == "lpips":
            raise ConfigError(f"perceptual = lpips: {error}") from error
        return structural_distance, f"structural (edges and SSIM; no LPIPS: {error})"


def _line(stage: str, step: int, steps: int, means: dict[str, float]) -> str:
    shown = ("loss", "pixel", "perceptual", "adversarial", "gradient_norm", "lr")
    values = "  ".join(f"{name} {means[name]:.4g}" for name in shown if name in means)
    return f"{stage} {step}/{steps}  {values}"


def _safetensors(tokenizer: vidtok.Tokenizer) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        save(tokenizer, path)
        return path.read_bytes()
