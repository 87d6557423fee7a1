"""Settings of a training run, each with its unit, its default and the reason for it.

The defaults of objective and optimizer are those of the released models, unless a field says
otherwise.
"""

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from pipeline.config.job import RANDOM, ModelName
from pipeline.config.section import Section
from pipeline.config.source import VideoSource
from pipeline.training.clip_config import ClipShape, ClipSourceConfig, Rate

if TYPE_CHECKING:
    from vidtok.training.objective import ObjectiveConfig
    from vidtok.training.trainer import TrainerConfig

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]

BestBy = Literal["psnr", "ssim", "lpips"]
"""Score of the held-out clips by which weights are compared. Less LPIPS is better."""

Decay = Annotated[float, Field(ge=0, lt=1)]


class ValidationConfig(VideoSource):
    """Held-out videos. The first clip of each is measured."""

    fps: Rate = 8.0
    """Frame rate of the measured clips in frames per second of presentation time."""
    every: PositiveInt = 500
    """Number of batches between two measurements."""
    best_by: BestBy = "psnr"
    """Score that decides which weights `best.safetensors` keeps, as the mean over the held-out
    clips. `lpips` needs the weights of VGG16; see `objective.vgg16`."""
    height: PositiveInt | None = None
    """Height of the measured clips in pixels. null: the height of the stage's clips."""
    width: PositiveInt | None = None
    """Width of the measured clips in pixels. null: the width of the stage's clips."""


class ObjectiveSection(Section):
    """Terms of the loss functions, and their weights; see `vidtok.training.objective`."""

    pixel: Literal["l1", "l2", "log_l2"] = "l1"
    """Distance between pixel values. `log_l2`: logarithm of each frame's mean squared difference.
    A decibel of PSNR then counts the same in each frame, and frames of fine texture do not
    dominate."""
    perceptual: Literal["auto", "lpips", "features", "structural", "none"] = "auto"
    """Perceptual distance between frames. `auto`: LPIPS if the weights of VGG16 are found,
    otherwise `structural`, which compares edges and SSIM. `features` compares the features of the
    network in `features`. The run log records the choice."""
    perceptual_weight: Weight = 1.0
    """Weight of the perceptual term, relative to the pixel term."""
    vgg16: str | None = None
    """Path of torchvision's VGG16 weights. null: torch's hub cache."""
    features: str | None = None
    """Path of a network that `torch.export.save` wrote, for `perceptual: features`. It takes
    pictures `[N, 3, H, W]` in [-1, 1], H and W from 32 pixels on, and returns a list of feature
    maps. The file holds a program that the training runs: use only files that you trust."""
    discriminator: Literal["2d", "3d"] | None = "2d"
    """Input of the discriminator: `2d` single frames, `3d` clips. null: no adversarial term."""
    discriminator_start: NonNegativeInt = 10_001
    """Number of batches before the discriminator is trained and its term is used."""
    adversarial_weight: Weight = 0.2
    """Weight of the adversarial term: the size of its gradient at the decoder's last layer,
    relative to that of the other terms."""
    kl_weight: Weight = 1e-6
    """Weight of the KL divergence, which is a sum over the clip."""


class StageConfig(Section):
    """One stage of the training, with clips of one size."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    """Name of the stage: a-z, 0-9, _ and -. It is part of its folder's name in the output."""
    model: ModelName | None = None
    """Name of the model from this stage on. It must have the same tensors as the run's model: for
    example, a v1.1 model continues a v1.0 model on long clips. null: as in the stage before."""
    train: Literal["all", "decoder"] = "all"
    """Trained part of the network. `decoder` freezes the encoder, as the published second stage
    does."""
    nested: list[PositiveInt] | None = None
    """Numbers of FSQ channels to train with, in ascending order up to all channels. Three
    quarters of the clips keep all channels. For each of the others, a smaller number is drawn, and
    the channels beyond it are filled in. So the network learns to decode tokens with fewer
    channels. With `train: decoder` the tokens do not change. null: all channels only."""
    steps: PositiveInt
    """Number of batches that each rank trains on."""
    batch: PositiveInt
    """Number of clips in a batch of one rank."""
    accumulate: PositiveInt = 1
    """Number of equal parts of a batch that pass through the network one after another. It must
    divide `batch`. More parts take less memory. The weights are updated once per batch."""
    clips: ClipShape
    """Size, frame rate and random choices of the clips."""
    lr: Weight = 1e-5
    """Learning rate."""
    optimizer: Literal["adam", "muon"] = "adam"
    """Optimizer of the autoencoder. `muon`: Muon for the kernels of convolutions, whose updates are
    then equally large in all directions, and Adam for the other weights. `lr` means the same for
    both. Muon needs torch 2.10 or newer."""
    betas: Annotated[tuple[Decay, Decay], BeforeValidator(tuple)] = (0.9, 0.999)
    """Decay rates of Adam's first and second moments."""
    warmup_steps: NonNegativeInt = 0
    """Number of batches over which the learning rate rises from 0 to `lr`, less than `steps`."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Learning rate after the warm-up. `cosine` falls to `final_lr · lr` at the last step."""
    final_lr: Weight = 0.0
    """Fraction of `lr` at the end of the `cosine` schedule."""
    clip_norm: PositiveFloat = 20.0
    """Maximum norm of the gradient, separately for the autoencoder and the discriminator."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """Decay rate of the averaged weights. The averaged weights are measured and saved; the release
    saved the last weights instead."""
    precision: Literal["float32", "tf32", "bf16"] = "bf16"
    """Arithmetic of the network. Losses are float32. `tf32`: float32, but a GPU rounds the factors
    of products to 10 bits, also in the losses."""
    recompute: Literal["auto", True, False] = "auto"
    """Whether the backward pass recomputes activations, which saves memory and takes up to a third
    more time. `auto`: only for as many blocks as the free memory requires, the largest first."""
    objective: ObjectiveSection = ObjectiveSection()

    def trainer(self) -> "TrainerConfig":
        """Return the settings of the trainer."""
        from vidtok.training.trainer import TrainerConfig  # loads torch

        names = [field.name for field in fields(TrainerConfig)]
        return TrainerConfig(**{name: getattr(self, name) for name in names})

    def terms(self, *, kl: bool) -> "ObjectiveConfig":
        """Return the objective of an FSQ or a KL tokenizer."""
        from vidtok.training.objective import ObjectiveConfig  # loads torch

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
    """A training run."""

    model: ModelName
    """Name of the model, one of `vidtok.list_models()`."""
    output: Annotated[str, Field(min_length=1)]
    """Folder of the output, or any prefix that fsspec can open. All nodes of a cluster must reach
    it."""
    storage_options: dict[str, Any] = Field(default={})
    """Options for fsspec for the output. They are never written to disk."""
    source: VideoSource
    validation: ValidationConfig | None = None
    """Held-out videos. null: no measurements and no pictures during the run."""
    stages: Annotated[list[StageConfig], Field(min_length=1)]
    """Stages of the training, in order. Each starts with the weights of the stage before."""
    weights: str = RANDOM
    """Path of the checkpoint that the first stage starts with. `hub`: the released checkpoint of
    `model`. `random`: an initialisation by `seed`."""
    workers: NonNegativeInt = 0
    """Number of ranks that Ray Train runs on the cluster. 0: train in this process."""
    min_workers: PositiveInt | None = None
    """Minimum number of ranks with which a run continues after the loss of nodes. The run returns
    to `workers` ranks when nodes return. null: `workers`, so a run waits for lost nodes."""
    gpu: bool | None = None
    """Whether each rank gets a GPU. null: yes if the machine or the cluster has one."""
    max_failures: NonNegativeInt = 3
    """Number of times that Ray Train restarts the ranks from the last checkpoint."""
    loaders: NonNegativeInt = 2
    """Number of processes per rank that decode ahead. 0: decode in the rank itself."""
    loader_batches: PositiveInt = 2
    """Number of batches that each loader decodes ahead."""
    keep_mb: NonNegativeInt = 0
    """Memory in MiB in which each loader keeps decoded video, so that a small corpus is decoded
    only once."""
    checkpoint_every: PositiveInt = 1000
    """Number of batches between checkpoints. A killed run loses at most this many batches, plus
    those of a checkpoint that was being written."""
    keep_checkpoints: PositiveInt = 2
    """Number of checkpoints to keep. Older ones are deleted."""
    log_every: PositiveInt = 20
    """Number of batches between log lines. A line has the averages over these batches."""
    seed: int = 23
    """Random seed of weights, noise and clips. The default is that of the release."""

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
            **videos.model_dump(include=set(VideoSource.model_fields)),
            frames=size.frames,
            height=videos.height or size.height,
            width=videos.width or size.width,
            segment_frames=max(192, size.frames),
        )
