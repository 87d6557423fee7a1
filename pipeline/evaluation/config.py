"""What an evaluation is: every setting with its unit, default and reason.

The shortest configuration is `source=… tokenizers=[NAME, …] output=…`: a source may be given as its
URIs alone, a tokenizer as the name of its model.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from pipeline.config.job import Precision, TokenizerSpec
from pipeline.config.section import Seconds, Section
from pipeline.config.source import VideoSource
from pipeline.evaluation.protocols import PROTOCOLS

Baseline = Literal["shrink", "h264", "hevc", "av1"]


Metric = Literal["psnr", "ssim", "lpips", "vmaf", "fvd", "fd_transnetv2", "codebook"]


Protocol = Literal["mcl-jcv", "webvid-val"]


def _as_source(value: Any) -> Any:
    return {"uri": value} if isinstance(value, (str, list)) else value


def _as_tokenizers(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    return [
        {"name": item.removeprefix("vidtok_"), "model": item} if isinstance(item, str) else item
        for item in items
    ]


class EvaluatedClip(Section):
    """What is cut from a video. Resized in float32, as the reference tokenizer sees it."""

    frames: PositiveInt | None = None
    """Frames of a clip; null: 17 for causal networks, 16 for the others."""
    height: PositiveInt = 128
    """Pixels, after resizing and cropping."""
    width: PositiveInt = 128
    """Pixels, after resizing and cropping."""
    fps: Annotated[Seconds | None, Field(le=1000)] = None
    """Frames per second; null takes every frame of the source once."""
    choice: Literal["time", "interval"] = "time"
    """How `fps` chooses frames: by presentation time, as the corpus job does, or as the reference
    does, every round(source's average rate / fps)-th."""
    short: Literal["drop", "pad"] = "drop"
    """The frames left at a video's end: no clip, or one filled up with copies of the last frame,
    which count in every metric."""
    per_video: PositiveInt | None = None
    """The first so many clips of each video; null: all. It is decoded to its end all the same, so
    that a broken one is not counted."""
    whole_videos: bool = False
    """v1.1 networks get each video whole: its first 1 + k·`chunk_frames` frames. A video that has
    no more than `chunk_frames` is skipped. Each is held in memory whole."""
    chunk_frames: PositiveInt = 16
    """Frames at a time, for whole videos."""
    chunking: Literal["exact", "reference"] = "exact"
    """`reference` tiles as the reference does, which differs near the first seam."""


class EvaluatedTokenizer(Section):
    """One tokenizer: a row of the table."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the row: a-z, 0-9 and _, beginning with a letter."""
    model: str
    """A name of `vidtok.list_models()`."""
    weights: str | None = None
    """Path of a checkpoint that every node can read; `hub` for the released one; null takes those
    bundled with the package, or a seeded initialisation where there are none."""
    precision: Precision = "float32"
    """Arithmetic of encoder and decoder."""

    @property
    def spec(self) -> TokenizerSpec:
        """The same tokenizer in the terms of the corpus job."""
        return TokenizerSpec(
            name=self.name, model=self.model, weights=self.weights, precision=self.precision
        )


class MetricWeights(Section):
    """Networks that metrics look through; null searches the usual caches."""

    vgg16: str | None = None
    """LPIPS: torchvision's VGG16 for ImageNet, `vgg16-397923af.pth`."""
    lpips_heads: str | None = None
    """LPIPS: the linear heads, `vgg.pth`."""
    i3d: str | None = None
    """FVD: the I3D network for Kinetics-400 as TorchScript, `i3d_torchscript.pt`."""


class EvaluationConfig(Section):
    """A whole evaluation."""

    source: Annotated[VideoSource, BeforeValidator(_as_source)]
    tokenizers: Annotated[
        list[EvaluatedTokenizer], BeforeValidator(_as_tokenizers), Field(min_length=1)
    ]
    output: Annotated[str, Field(min_length=1)]
    """A folder, or any prefix that fsspec opens."""
    protocol: Protocol | None = None
    """A published way to evaluate (`pipeline.evaluation.protocols`); what is given beside it stands
    above it."""
    clip: EvaluatedClip = EvaluatedClip()
    kl_latent: Literal["mean", "sample"] = "mean"
    """What KL tokenizers decode: the posterior's mean, or one draw, seeded by the clip's id."""
    metrics: list[Metric] = Field(default_factory=lambda: list(get_args(Metric)))
    """What is computed, all by default; what lacks its weights or tools is reported as n/a."""
    metric_weights: MetricWeights = MetricWeights()
    baselines: list[Baseline] = Field(default_factory=lambda: list(get_args(Baseline)))
    """All by default. `shrink`: each tokenizer's latent grid as a small video. The codecs: at most
    the bits that each FSQ tokenizer spends on the same clip."""
    pictures: Annotated[int, Field(ge=0)] = 8
    """Videos of which a picture is drawn, from the first on."""
    workers: PositiveInt | None = None
    """Processes, on Ray where more than one; null: one, or what the cluster that RAY_ADDRESS names
    has room for."""
    threads: PositiveInt | None = None
    """CPU threads of one worker; null: all in a single process, one on Ray. Other numbers may round
    differently."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes GPUs where there are any."""

    @model_validator(mode="before")
    @classmethod
    def _lay_over_protocol(cls, values: Any) -> Any:
        name = values.get("protocol") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in PROTOCOLS:
            return values
        preset, clip = PROTOCOLS[name], values.get("clip", {})
        laid = {**preset, **values}
        laid["clip"] = {**preset["clip"], **clip} if isinstance(clip, dict) else clip
        return laid

    @property
    def is_as_published(self) -> bool:
        """Whether the protocol's settings stand unchanged, so that its results compare."""
        if self.protocol is None:
            return False
        preset = PROTOCOLS[self.protocol]
        return self.clip == EvaluatedClip(**preset["clip"]) and (
            self.kl_latent == preset["kl_latent"]
        )
