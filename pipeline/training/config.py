"""A training run: every setting with its unit, default and reason.

The defaults of an objective and of an optimizer are those of the released models; the exceptions
say so.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from pipeline.config.job import Seconds, Section
from pipeline.training.clip_config import ClipShape, ClipSourceConfig, Names
from vidtok.training.objective import ObjectiveConfig
from vidtok.training.trainer import TrainerConfig

Weight = Annotated[NonNegativeFloat, BeforeValidator(lambda v: float(v) if type(v) is int else v)]


Decay = Annotated[float, Field(ge=0, lt=1)]


class VideosConfig(Section):
    """Videos to learn from, or to be measured on."""

    uri: Annotated[Names, Field(min_length=1)]
    """One or several tars, video files, folders, globs or `{000..999}` patterns."""
    exclude: Names = Field(default=[])
    """Globs (`*` also matches `/`) of what to leave out: URIs, or keys of samples."""
    max_video_mb: PositiveInt = 2048
    """Larger videos are skipped unread: each is held in memory whole."""
    storage_options: dict[str, Any] = Field(default={})
    """Passed to fsspec (endpoint, credentials). Not kept in checkpoints."""


class ValidationConfig(VideosConfig):
    """Videos that training never sees; the first clip of each is measured."""

    fps: Seconds = 8.0
    """Frames per second of presentation time."""
    every: PositiveInt = 500
    """Batches between two measurements."""
    height: PositiveInt | None = None
    """Pixels; null takes the stage's."""
    width: PositiveInt | None = None
    """Pixels; null takes the stage's."""


class ObjectiveSection(Section):
    """The terms of the losses; see `vidtok.training.objective`."""

    pixel: Literal["l1", "l2"] = "l1"
    """Distance of single values."""
    perceptual: Literal["auto", "lpips", "structural", "none"] = "auto"
    """Distance of pictures. `auto`: LPIPS where VGG16's weights are found, else `structural`, a
    stand-in of edges and SSIM; which one it was is logged and kept."""
    perceptual_weight: Weight = 1.0
    """Relative to the pixels' term."""
    vgg16: str | None = None
    """Path of torchvision's VGG16 weights; null looks in torch's hub cache."""
    discriminator: Literal["2d", "3d"] | None = "2d"
    """Judges single frames, or clips; null: no adversarial term."""
    discriminator_start: NonNegativeInt = 10_001
    """Batches before the discriminator learns and is heard."""
    adversarial_weight: Weight = 0.2
    """Pull of the adversarial term at the decoder's last layer, relative to the rest."""
    kl_weight: Weight = 1e-6
    """Of the KL divergence, which is a sum over the clip."""


class StageConfig(Section):
    """One stage: a size, and what is trained at it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    """Name of its folder in the output."""
    model: str | None = None
    """A tokenizer of the same tensors as the run's, for this stage and those after it: a v1.1
    network continues with the weights of a v1.0 one on long clips. null: as the stage before."""
    train: Literal["all", "decoder"] = "all"
    """`decoder` freezes the encoder, as the published second stage does."""
    steps: PositiveInt
    """Batches of each rank."""
    batch: PositiveInt
    """Clips per rank and step."""
    clips: ClipShape
    """Size, frame rate and randomness of the clips."""
    lr: Weight = 1e-5
    """Adam's learning rate."""
    betas: Annotated[tuple[Decay, Decay], BeforeValidator(tuple)] = (0.9, 0.999)
    """Adam's decays."""
    warmup_steps: NonNegativeInt = 0
    """Batches over which the learning rate rises from 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """`cosine` falls to `final_lr · lr` at the last step."""
    final_lr: Weight = 0.0
    """Share of the learning rate at the end of `cosine`."""
    clip_norm: Annotated[Weight, Field(gt=0)] = 20.0
    """Longest gradient, for each of the two optimizers."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Of the averaged weights, which are what is validated and kept. The release keeps the last."""
    precision: Literal["float32", "bf16"] = "bf16"
    """Arithmetic of the network; losses are always float32."""
    recompute: bool = False
    """Activation checkpointing: less memory for about a third more time."""
    objective: ObjectiveSection = ObjectiveSection()

    def trainer(self) -> TrainerConfig:
        """Return what the trainer needs to know of the stage."""
        return TrainerConfig(
            train=self.train,
            steps=self.steps,
            lr=self.lr,
            betas=self.betas,
            warmup_steps=self.warmup_steps,
            schedule=self.schedule,
            final_lr=self.final_lr,
            clip_norm=self.clip_norm,
            ema_decay=self.ema_decay,
            precision=self.precision,
            recompute=self.recompute,
        )

    def terms(self, *, kl: bool) -> ObjectiveConfig:
        """Return the objective of an FSQ or a KL tokenizer."""
        terms = self.objective
        return ObjectiveConfig(
            pixel=terms.pixel,
            perceptual_weight=0.0 if terms.perceptual == "none" else terms.perceptual_weight,
            regularizer_weight=terms.kl_weight if kl else 1.0,
            discriminator=terms.discriminator,
            discriminator_start=terms.discriminator_start,
            adversarial_weight=terms.adversarial_weight,
        )


class TrainConfig(Section):
    """A whole training run."""

    model: str
    """A name of `vidtok.list_models()`."""
    output: Annotated[str, Field(min_length=1)]
    """A folder, or any prefix that fsspec opens; on a cluster one that all nodes reach."""
    storage_options: dict[str, Any] = Field(default={})
    """Passed to fsspec for the output. Never written into it."""
    source: VideosConfig
    validation: ValidationConfig | None = None
    """null: no measurements and no pictures while it runs."""
    stages: Annotated[list[StageConfig], Field(min_length=1)]
    """In order; each begins with the weights of the one before."""
    weights: str | None = None
    """Checkpoint that the first stage begins with, or `hub` for the released one of `model`; null
    begins with drawn weights."""
    workers: NonNegativeInt = 0
    """Ranks that Ray Train runs on the cluster; 0 trains in this process."""
    gpu: bool | None = None
    """Whether each rank gets a GPU; null: if there is one."""
    max_failures: NonNegativeInt = 3
    """Times that Ray Train starts the ranks again, from the last checkpoint."""
    loaders: NonNegativeInt = 2
    """Processes per rank that decode ahead; 0 decodes in the rank itself."""
    keep_mb: NonNegativeInt = 0
    """MiB of decoded video that each loader keeps: a small corpus is decoded once."""
    checkpoint_every: PositiveInt = 1000
    """Batches; what a kill loses at most."""
    keep_checkpoints: PositiveInt = 2
    """Older ones are deleted."""
    log_every: PositiveInt = 20
    """Batches that one line of the log averages."""
    seed: int = 23
    """Of weights, noise, and clips. The release's."""

    def model_of(self, stage: StageConfig) -> str:
        """Return the name of the tokenizer that a stage trains."""
        named = [s.model for s in self.stages[: self.stages.index(stage) + 1] if s.model]
        return named[-1] if named else self.model

    def clips(self, stage: StageConfig) -> ClipSourceConfig:
        """Return a stage's stream of training clips."""
        return ClipSourceConfig(
            **self.source.model_dump(),
            **stage.clips.model_dump(),
            keep_mb=self.keep_mb,
            seed=self.seed,
        )

    def held_out(self, stage: StageConfig) -> ClipSourceConfig | None:
        """Return the videos that a stage is measured on."""
        if (videos := self.validation) is None:
            return None
        size = stage.clips
        return ClipSourceConfig(
            **videos.model_dump(include=set(VideosConfig.model_fields)),
            frames=size.frames,
            height=videos.height or size.height,
            width=videos.width or size.width,
            segment_frames=max(192, size.frames),
        )

    def public(self) -> dict[str, Any]:
        """Return all settings as plain values, without what may hold credentials."""
        values = self.model_dump(mode="json")
        for section in (values, values["source"], values["validation"] or {}):
            if "storage_options" in section:
                section["storage_options"] = dict.fromkeys(section["storage_options"], "…")
        return values
