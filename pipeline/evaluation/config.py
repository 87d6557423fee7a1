"""Settings of an evaluation, each with its unit, its default and the reason for it.

The shortest configuration is `source=… tokenizers=[NAME, …] output=…`: the URIs alone are a source,
and the name of a model is a tokenizer.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from pipeline.config.job import ModelName, Precision, Tile, TokenizerSpec
from pipeline.config.section import Seconds, Section
from pipeline.config.source import VideoSource
from pipeline.evaluation.protocols import PROTOCOLS

Baseline = Literal["shrink", "h264", "hevc", "av1"]


Metric = Literal["psnr", "ssim", "lpips", "vmaf", "fvd", "fd_transnetv2", "codebook"]


Protocol = Literal["mcl-jcv", "webvid-val"]


Side = Annotated[int, Field(ge=11)]
"""Side of a picture in pixels, from the window of SSIM up."""


def _as_source(value: Any) -> Any:
    return {"uri": value} if isinstance(value, (str, list)) else value


def _as_tokenizers(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    return [
        {"name": item.removeprefix("vidtok_"), "model": item} if isinstance(item, str) else item
        for item in items
    ]


class EvaluatedClip(Section):
    """Clips that are cut from a video, and resized in float32 as for the reference tokenizer."""

    frames: PositiveInt | None = None
    """Number of frames of a clip. null: 17 for causal models, 16 for others."""
    height: Side = 128
    """Height of a clip in pixels, after resizing and cropping: at least 11 for SSIM. VMAF needs 17.
    """
    width: Side = 128
    """Width of a clip in pixels, after resizing and cropping: at least 11 for SSIM. VMAF needs 17.
    """
    fps: Annotated[Seconds | None, Field(le=1000)] = None
    """Frame rate of the clips in frames per second. null: every frame of the source once."""
    choice: Literal["time", "interval"] = "time"
    """Method by which `fps` chooses frames. `time`: by presentation time, as the corpus job does.
    `interval`: every n-th frame, where n is round(average rate of the source / fps), as the
    reference does."""
    short: Literal["drop", "pad"] = "drop"
    """Treatment of the frames that are left at the end of a video. `drop`: no clip. `pad`: a clip
    that ends in copies of the last frame, which count in every metric."""
    per_video: PositiveInt | None = None
    """Maximum number of clips of each video, counted from its start. null: all clips. Each video is
    decoded to its end in any case, so that a broken video is not counted."""
    whole_videos: bool = False
    """Whether v1.1 models get each video as a whole: its first 1 + k·`chunk_frames` frames. A video
    with at most `chunk_frames` frames is skipped. Each video is held in memory as a whole."""
    chunk_frames: PositiveInt = 16
    """Number of frames in a chunk of a whole video."""
    chunking: Literal["exact", "reference"] = "exact"
    """Method of chunking. `exact`: the result is that of the whole video. `reference`: chunks are
    cut as in the reference, whose result differs near the first border between chunks."""


class EvaluatedTokenizer(Section):
    """Tokenizer to evaluate, which is one row of the table."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the row: a-z, 0-9 and _, starting with a letter."""
    model: ModelName
    """Name of the model, with the same values as the setting `tokenizers[].model` of a job."""
    weights: str | None = None
    """Path of a checkpoint that every node can read. `hub`: the released checkpoint. `random`: a
    seeded initialisation, whose scores say nothing about the model. null: the weights bundled with
    the package, or an error if there are none."""
    precision: Precision = "float32"
    """Arithmetic of encoder and decoder."""

    @property
    def spec(self) -> TokenizerSpec:
        """The tokenizer as a section of a corpus job."""
        return TokenizerSpec(**self.model_dump())


class MetricWeights(Section):
    """Paths of the weights that metrics need. null: the usual caches are searched."""

    vgg16: str | None = None
    """Path of torchvision's VGG16 for ImageNet, `vgg16-397923af.pth`, for LPIPS."""
    lpips_heads: str | None = None
    """Path of the linear heads of LPIPS, `vgg.pth`."""
    i3d: str | None = None
    """Path of the I3D network for Kinetics-400 as TorchScript, `i3d_torchscript.pt`, for FVD."""


_OneTokenizer = ModelName | EvaluatedTokenizer

_Tokenizers = list[_OneTokenizer] | _OneTokenizer


class EvaluationConfig(Section):
    """An evaluation of tokenizers."""

    source: Annotated[
        VideoSource,
        BeforeValidator(_as_source, json_schema_input_type=str | list[str] | VideoSource),
    ]
    tokenizers: Annotated[
        list[EvaluatedTokenizer],
        BeforeValidator(_as_tokenizers, json_schema_input_type=_Tokenizers),
        Field(min_length=1),
    ]
    output: Annotated[str, Field(min_length=1)]
    """Folder of the results, or any prefix that fsspec can open."""
    protocol: Protocol | None = None
    """Name of a published evaluation protocol (`pipeline.evaluation.protocols`). Settings that are
    also given override those of the protocol."""
    clip: EvaluatedClip = EvaluatedClip()
    kl_latent: Literal["mean", "sample"] = "mean"
    """Latent that KL tokenizers decode: the mean of the posterior, or a sample seeded by the clip's
    id."""
    metrics: list[Metric] = Field(default_factory=lambda: list(get_args(Metric)), min_length=1)
    """Metrics to compute; all by default. A metric whose weights or tools are missing is reported
    as n/a."""
    metric_weights: MetricWeights = MetricWeights()
    baselines: list[Baseline] = Field(default_factory=lambda: list(get_args(Baseline)))
    """Baselines to compare with; all by default. `shrink`: a small video with the size of each
    tokenizer's latent grid. Each codec gets at most the bits of each tokenizer: those of the clip's
    FSQ indices, or 16 for each value of its KL latent."""
    pictures: Annotated[int, Field(ge=0)] = 8
    """Number of videos for which a comparison picture is written, counted from the first."""
    tile: Tile = "auto"
    """Size in pixels of the tiles in which VidTok models process large pictures, with the same
    values as the setting `tokenize.tile` of a job. The scores are those of whole pictures. Not with
    `clip.chunking: reference`."""
    workers: PositiveInt | None = None
    """Number of worker processes. Several run on Ray. null: one, or as many as fit if RAY_ADDRESS
    names a cluster."""
    threads: PositiveInt | None = None
    """Number of CPU threads of a worker. null: all threads in a single process, one thread on Ray.
    Another number can change the last bits of the result."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the models. `auto`: GPUs if there are any, otherwise CPUs."""

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
        """Whether all settings of the protocol are unchanged, so that published results compare."""
        if self.protocol is None:
            return False
        preset = PROTOCOLS[self.protocol]
        return self.clip == EvaluatedClip(**preset["clip"]) and (
            self.kl_latent == preset["kl_latent"]
        )
