"""One stage on one rank: batches in, weights out, resumed from the last checkpoint."""

import gc
import random
from typing import Final

import torch

from pipeline.errors import ConfigError, Diverged
from pipeline.sources.planning import plan_units
from pipeline.storage.store import Store
from pipeline.tokenizers.arithmetic import set_arithmetic
from pipeline.training.checkpoints import (
    Checkpoint,
    CheckpointWriter,
    from_all_ranks,
    load_last,
    require_finite,
    set_random_state,
    wait_for_all_ranks,
)
from pipeline.training.clips import TrainingClips, loader_ended
from pipeline.training.config import StageConfig, TrainConfig
from pipeline.training.initial import (
    WEIGHTS,
    initial_weights,
    perceptual_term,
    require_networks,
    validation_lpips,
)
from pipeline.training.pace import Pace, told
from pipeline.training.ray_ranks import Rank, Tell
from pipeline.training.run_log import RunLog
from pipeline.training.segments import source_uris
from pipeline.training.validation import BestWeights, held_out_clips, validate, write_weights
from vidtok.digest import weights_digest
from vidtok.training.trainer import Trainer

_SHOWN: Final = ("loss", "pixel", "perceptual", "adversarial", "gradient_norm", "lr")


def train_stages(config: TrainConfig, rank: Rank, tell: Tell) -> None:
    """Run all stages that are not complete; each begins with the weights of the one before.

    Args:
        config: the run.
        rank: position of this process.
        tell: takes lines about progress; called on the first rank only.

    Raises:
        ConfigError: weights, clips or videos are not as the configuration says.
        Diverged: a loss, a gradient or a weight is not finite.
    """
    set_arithmetic()
    tell = tell if rank.rank == 0 else lambda _: None
    stores = [
        Store(f"{config.output}/{number}-{stage.name}", config.storage_options)
        for number, stage in enumerate(config.stages, 1)
    ]
    for stage, store in zip(config.stages[1:], stores[1:], strict=True):
        if not store.exists(WEIGHTS):  # the stages before it can take days
            require_networks(config, stage)
    before: Store | None = None
    for stage, store in zip(config.stages, stores, strict=True):
        if store.exists(WEIGHTS):
            tell(f"{stage.name}: complete")
        else:
            _Stage(config, stage, store, before, rank, tell).run()
            # The networks are in reference cycles, and the next stage needs their memory.
            gc.collect()
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
        self._saved = load_last(store)
        torch.manual_seed(config.seed + rank.rank)
        tokenizer = initial_weights(config, stage, before)
        self._began_with = weights_digest(tokenizer.state_dict())
        tokenizer = tokenizer.to(rank.device)
        perceptual, self._perceptual_name = perceptual_term(stage.objective, rank.device)
        self._model = tokenizer.config
        kl = self._model.regularizer == "kl"
        self._trainer = Trainer(tokenizer, stage.trainer(), stage.terms(kl=kl), perceptual)
        self._clips = TrainingClips(
            config.clips(stage),
            stage.batch,
            rank=rank.rank,
            world=rank.world,
            workers=config.loaders,
            ahead=config.loader_batches,
            pin_memory=rank.device.startswith("cuda"),
        )
        self._pace = Pace(self._clips, stage.batch * rank.world, rank.device)
        self._checkpoints = CheckpointWriter(store, keep=config.keep_checkpoints)
        if self._saved is not None:
            self._resume(self._saved)
        self._log: RunLog | None = None
        self._best: BestWeights | None = None
        self._trained_on: list[str] = []
        if rank.rank == 0:
            if config.validation is not None and (held_out := config.held_out(stage)):
                self._held_out = held_out_clips(held_out, fps=config.validation.fps)
                measured = source_uris(plan_units(held_out, single=True))
                self._trained_on = sorted(measured & self._clips.uris)
                self._lpips = validation_lpips(config, stage, rank.device)
                self._best = BestWeights(
                    store,
                    config.validation.best_by,
                    self._held_out,
                    resumed=self._saved is not None,
                )
            self._log = RunLog(store, self._trainer.step)

    def _resume(self, saved: Checkpoint) -> None:
        where, digest = f"output = {self._store.uri}", self._model.digest
        if saved.shared.get("model") != digest:
            raise ConfigError(
                f"{where}: holds checkpoints of another model than {self._model.name}; continue"
                " with their model, or choose another output"
            )
        if saved.shared.get("began_with") != self._began_with:
            raise ConfigError(
                f"{where}: holds checkpoints of a training that began with other weights; continue"
                " with the same weights and seed, or choose another output"
            )
        if (done := saved.shared["step"]) > self._stage.steps:
            raise ConfigError(
                f"{where}: holds a checkpoint of batch {done}, and steps = {self._stage.steps};"
                f" set steps to {done} or more, or choose another output"
            )
        try:
            self._trainer.load_state_dict(saved.shared)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"{where}: holds checkpoints of another network, objective or optimizer; continue"
                " with their settings, or choose another output"
            ) from error
        self._clips.load_state_dicts([own["clips"] for own in saved.ranks])
        rank, world = self._rank.rank, self._rank.world
        if len(saved.ranks) == world:
            set_random_state(saved.ranks[rank]["random"])
        else:
            noise = f"{self._config.seed}/{self._trainer.step}/{world}/{rank}"
            torch.manual_seed(random.Random(noise).getrandbits(63))

    def run(self) -> None:
        """Train to the stage's last batch and write its weights."""
        try:
            self._train()
        except Diverged as error:
            raise Diverged(
                f"{self._stage.name}: {error}; lower lr, and run the same command again: it"
                " continues from the last checkpoint; if that diverges, too, delete the last"
                " checkpoint, or choose another output"
            ) from error
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):  # others are faults of the program
                raise
            raise loader_ended(error) from error  # torch raises it wherever this process is
        finally:
            self._checkpoints.close()
            self._clips.close()
            if self._log is not None:
                self._log.close()

    def _train(self) -> None:
        trainer, stage, config = self._trainer, self._stage, self._config
        self._begin()
        while trainer.step < stage.steps:
            values = trainer.train_on(next(self._pace))
            step = trainer.step
            if self._log is not None:
                # A line also ends at a checkpoint, so a resumed run begins with a new one.
                ends = (config.log_every, config.checkpoint_every, stage.steps)
                due = any(step % end == 0 for end in ends)
                if means := self._log.batch(step, values, due=due, pace=self._pace.line):
                    shown = "  ".join(f"{n} {means[n]:.4g}" for n in _SHOWN if n in means)
                    self._tell(f"{stage.name} {step}/{stage.steps}  {shown}  {told(means)}")
                if config.validation and step % config.validation.every == 0:
                    self._validate()
            if step % config.checkpoint_every == 0 and step < stage.steps:
                self._checkpoint()
        self._checkpoints.wait()
        require_finite(trainer.step, trainer.averaged.state_dict())
        skipped = from_all_ranks(self._clips.skipped)
        if self._log is not None:
            if config.validation and stage.steps % config.validation.every:
                self._validate()
            for video, why in {k: why for videos in skipped for k, why in videos.items()}.items():
                self._log.note(trainer.step, {"skipped": video, "why": why})
            self._log.save()
            write_weights(self._store, WEIGHTS, trainer.averaged)
            self._tell(f"{stage.name}: {self._store.locate(WEIGHTS)}")
        wait_for_all_ranks()

    def _begin(self) -> None:
        trainer, stage, world = self._trainer, self._stage, self._rank.world
        saved, self._saved = self._saved, None  # its memory
        self._tell(
            f"{stage.name}: {trainer.step} of {stage.steps} batches done; "
            f"perceptual term: {self._perceptual_name}"
        )
        if self._log is None:
            return
        if both := self._trained_on:
            self._tell(
                f"{stage.name}: validation.uri: {len(both)} of its files are in source.uri, too,"
                f" for example {both[0]}: their scores do not show what the model does with new"
                " videos"
            )
        if saved is None:
            about = {"perceptual": self._perceptual_name, "config": self._config.public()}
            self._log.note(0, about)
            self._validate()
        elif (before := len(saved.ranks)) != world:
            self._log.note(trainer.step, {"ranks": world, "ranks_before": before})
            self._tell(
                f"{stage.name}: {before} ranks before, {world} now: the videos left of the epoch"
                f" are dealt again, and a step takes {stage.batch * world} clips"
            )

    def _validate(self) -> None:
        if self._best is None or self._log is None or not self._held_out:
            return
        self._pace.pause()
        step, averaged = self._trainer.step, self._trainer.averaged
        scores, picture = validate(averaged, self._held_out, self._lpips)
        self._log.validation(step, scores, picture)
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        best = " (best)" if self._best.offer(averaged, step, scores) else ""
        self._tell(f"{self._stage.name} {step}: held out: {text}{best}")

    def _checkpoint(self) -> None:
        self._pace.pause()
        if self._log is not None:
            self._log.save()
        own = {"clips": self._clips.state_dict()}
        facts = {"model": self._model.digest, "began_with": self._began_with}
        shared = self._trainer.state_dict() | facts
        self._checkpoints.save(self._trainer.step, shared, own)
