"""One stage on one rank: batches in, weights out, resumed from the last checkpoint."""

import tempfile
from pathlib import Path
from typing import Any, Final

import torch

import vidtok
from pipeline.config.job import HUB, RANDOM
from pipeline.errors import ConfigError
from pipeline.storage.store import Store
from pipeline.tokenizers.arithmetic import set_arithmetic
from pipeline.training import checkpoints
from pipeline.training.clips import TrainingClips
from pipeline.training.config import ObjectiveSection, StageConfig, TrainConfig
from pipeline.training.ray_ranks import Rank, Tell
from pipeline.training.run_log import RunLog
from pipeline.training.validation import held_out_clips, validate
from vidtok.checkpoint import save
from vidtok.lpips import load_lpips
from vidtok.presets import named_config
from vidtok.training.objective import Perceptual
from vidtok.training.perceptual import structural_distance
from vidtok.training.trainer import Trainer

WEIGHTS: Final = "model.safetensors"

_SHOWN: Final = ("loss", "pixel", "perceptual", "adversarial", "gradient_norm", "lr")


def train_stages(config: TrainConfig, rank: Rank, tell: Tell) -> None:
    """Run all stages that are not complete; each begins with the weights of the one before.

    Args:
        config: the run.
        rank: position of this process.
        tell: takes lines about progress; called on the first rank only.

    Raises:
        ConfigError: weights, clips or videos are not as the configuration says.
    """
    set_arithmetic()
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
        tokenizer = _initial_weights(config, stage, before).to(rank.device)
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
            self._resume(*saved)
        self._log: RunLog | None = None
        self._held_out = []
        if rank.rank == 0:
            if config.validation is not None and (held_out := config.held_out(stage)):
                self._held_out = held_out_clips(held_out, fps=config.validation.fps)
            self._log = RunLog(store, self._trainer.step)

    def _resume(self, shared: dict[str, Any], own: dict[str, Any]) -> None:
        try:
            self._trainer.load_state_dict(shared)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"output = {self._store.uri}: holds checkpoints of another network or objective;"
                " continue with that, or choose another output"
            ) from error
        self._clips.load_state_dict(own["clips"])
        checkpoints.set_random_state(own["random"])

    def run(self) -> None:
        """Train to the stage's last batch and write its weights."""
        try:
            self._train()
        finally:
            self._clips.close()
            if self._log is not None:
                self._log.close()

    def _train(self) -> None:
        trainer, stage, config = self._trainer, self._stage, self._config
        self._tell(
            f"{stage.name}: {trainer.step} of {stage.steps} batches done; "
            f"perceptual term: {self._perceptual_name}"
        )
        if self._log is not None and trainer.step == 0:
            self._log.note(0, {"perceptual": self._perceptual_name, "config": config.public()})
            self._validate()
        while trainer.step < stage.steps:
            values = trainer.train_on(next(self._clips))
            step = trainer.step
            if self._log is not None:
                # A line also ends at a checkpoint, so a resumed run begins with a new one.
                ends = (config.log_every, config.checkpoint_every, stage.steps)
                due = any(step % end == 0 for end in ends)
                if means := self._log.batch(step, values, due=due):
                    shown = "  ".join(f"{n} {means[n]:.4g}" for n in _SHOWN if n in means)
                    self._tell(f"{stage.name} {step}/{stage.steps}  {shown}")
                if config.validation and step % config.validation.every == 0:
                    self._validate()
            if step % config.checkpoint_every == 0 and step < stage.steps:
                self._checkpoint()
        if self._log is not None:
            if config.validation and stage.steps % config.validation.every:
                self._validate()
            for video, why in self._clips.skipped.items():
                self._log.note(trainer.step, {"skipped": video, "why": why})
            self._log.save()
            self._store.write(WEIGHTS, _safetensors(trainer.averaged))
            self._tell(f"{stage.name}: {self._store.locate(WEIGHTS)}")
        checkpoints.wait_for_all_ranks()

    def _validate(self) -> None:
        if not self._held_out or self._log is None:
            return
        scores, picture = validate(self._trainer.averaged, self._held_out)
        self._log.validation(self._trainer.step, scores, picture)
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self._tell(f"{self._stage.name} {self._trainer.step}: held out: {text}")

    def _checkpoint(self) -> None:
        if self._log is not None:
            self._log.save()
        checkpoints.save(
            self._store,
            self._trainer.step,
            self._trainer.state_dict(),
            {"clips": self._clips.state_dict()},
            rank=self._rank.rank,
            keep=self._config.keep_checkpoints,
        )


def _initial_weights(
    config: TrainConfig, stage: StageConfig, before: Store | None
) -> vidtok.Tokenizer:
    """Return the weights that a stage begins with."""
    model = config.model_of(stage)
    if before is not None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / WEIGHTS
            path.write_bytes(before.read(WEIGHTS))
            return _as_model(vidtok.load(path), model, f"stage {stage.name}")
    if config.weights == RANDOM:
        return vidtok.build(model, seed=config.seed)
    where = f"weights = {config.weights}"
    # A .ckpt does not name its model; its tensors are checked either way.
    named = model if config.weights.endswith(".ckpt") else None
    source = config.model if config.weights == HUB else config.weights
    try:
        return _as_model(vidtok.load(source, config=named), model, where)
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _as_model(tokenizer: vidtok.Tokenizer, model: str, where: str) -> vidtok.Tokenizer:
    """Return the tokenizer under another name; v1.0 and v1.1 have the same tensors.

    Raises:
        ConfigError: the named model has other tensors.
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
    """Return the perceptual distance that can be loaded, and its name."""
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


def _safetensors(tokenizer: vidtok.Tokenizer) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        save(tokenizer, path)
        return path.read_bytes()
