"""Settings of a corpus job, each with its unit, its default and the reason for it.

`pipeline.config.loading` reads a configuration from YAML and the command line. A program can also
make a `JobConfig` directly. Values are not converted: the string "17" is not a number.
`pipeline.job.config_checks` checks rules between settings and models.
"""

import ast
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import AfterValidator, Discriminator, Field, PlainValidator, PositiveInt, Tag
from pydantic_core import PydanticCustomError

from pipeline.config.section import Seconds, Section
from pipeline.config.shots import ShotConfig
from pipeline.config.source import VideoSource
from pipeline.config.tracks import TrackConfig

Precision = Literal["float32", "bf16", "fp16"]


class _ModelNames:
    """JSON Schema of a model's name; workers load the settings, and do not need the names."""

    def __get_pydantic_json_schema__(self, *_: Any) -> dict[str, Any]:
        from vidtok.presets import list_models

        return {"type": "string", "anyOf": [{"enum": list_models()}, {"pattern": r":|\$\{"}]}


ModelName = Annotated[str, _ModelNames()]
"""Name of a tokenizer, which `pipeline.tokenizers.checks` checks. In the JSON Schema it is one of
VidTok or has a colon."""

Measure = Literal[
    "motion", "still", "luma", "contrast", "blur", "border", "duplicates", "phash", "text_area"
]
"""Measure of a clip, see `pipeline.decode.measures`. `text_area` needs rapidocr."""

MEASURES: Final[tuple[Measure, ...]] = get_args(Measure)
"""All measures, in the order of their columns."""

HUB: Final = "hub"
"""Value of `weights` that names the released checkpoint."""

RANDOM: Final = "random"
"""Value of `weights` that names a seeded initialisation."""


def _plain_expression(text: str) -> str:
    """Return an expression as Python writes it, so that spaces do not matter; others unchanged."""
    try:
        return ast.unparse(ast.parse(f"({text}\n)", mode="eval"))  # in brackets lines may break
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text  # the check of the whole configuration says what is wrong


_Rate = Annotated[Seconds | None, Field(le=1000)]

_Rates = Annotated[
    Annotated[_Rate, Tag("(one)")] | Annotated[list[_Rate], Field(min_length=1), Tag("(list)")],
    Discriminator(lambda value: "(list)" if isinstance(value, list) else "(one)"),
]


class BucketConfig(Section):
    """One shape of clips."""

    frames: PositiveInt | None = None
    """Number of frames of a clip. A causal model of temporal factor f takes 1 + f·k frames. Must be
    left out if clips are whole videos."""
    height: PositiveInt
    """Height of a clip in pixels, after resizing and cropping."""
    width: PositiveInt
    """Width of a clip in pixels, after resizing and cropping."""


class ClipConfig(Section):
    """Clips that are cut from a video. This section is part of the fingerprint."""

    frames: PositiveInt | None = None
    """Number of frames of a clip, if all clips have one shape. Give either `frames`, `height` and
    `width`, or `buckets`."""
    height: PositiveInt | None = None
    """Height of a clip in pixels, after resizing and cropping, if all clips have one shape."""
    width: PositiveInt | None = None
    """Width of a clip in pixels, after resizing and cropping, if all clips have one shape."""
    buckets: list[BucketConfig] = Field(default=[])
    """Shapes of clips, if there are several. Each video, or each shot, gets the longest shape that
    it can fill. Among equally long shapes, the one that crops or enlarges least is taken, then the
    first. A shape of one frame is for images."""
    whole: bool = False
    """Whether each video, or each span of a list, is one clip with all its frames. Only v1.1 models
    can do this: they encode a video chunk by chunk. `frames` must be left out, and `short` has no
    effect."""
    chunk_frames: PositiveInt = 64
    """Number of frames in a chunk of a whole video. It must be a multiple of each model's temporal
    factor. More frames need more memory."""
    fps: _Rates = None
    """Frame rate of the clips in frames per second of presentation time. null: every frame of the
    source once. A list gives clips of each rate, with the rate in the column `fps`."""
    short: Literal["drop", "pad"] = "drop"
    """Treatment of the frames that are left at the end of a video. `drop`: no clip. `pad`: a clip
    that ends in copies of the last frame."""
    resize: Literal["uint8", "float32"] = "uint8"
    """Arithmetic of the resize. `float32` keeps fractions, as the reference tokenizer does, and
    needs four times the memory between decode and tokenize."""
    shots: ShotConfig | None = None
    """Split of each video into shots at its cuts, before clips are cut. No clip crosses a cut that
    was found. null: clips can cross cuts."""
    stride_s: Seconds | None = None
    """Time in seconds from the start of one clip to the start of the next. Shorter than a clip:
    clips overlap. Longer: gaps remain. null: each clip starts where the previous one ends. A clip
    starts at the nearest frame of its own rate."""
    offset_s: Annotated[float, Field(ge=0)] = 0.0
    """Time in seconds to skip at the start of each sample, for example a title."""
    max_per_sample: PositiveInt | None = None
    """Maximum number of clips per sample and rate, and with `every_bucket` also per shape. null: no
    limit. The decoder holds this many clips in memory until the sample ends. Other clips are
    counted as dropped."""
    choose: Literal["even", "hash"] = "even"
    """Choice of the clips if a sample has more than `max_per_sample`. `even`: spread over the
    sample. `hash`: by a hash of the sample's key and the clip's time. If the maximum grows, both
    choices keep the clips that they had."""
    every_bucket: bool = False
    """Whether a video gives clips in every shape that it has enough frames and pixels for, and not
    only in the best one."""

    measure: list[Measure] = Field(default=[])
    """Names of the measures to store as columns, such as `motion`. Not available with `whole`."""
    filter: (
        Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_plain_expression)]
        | None
    ) = None
    """Condition that a clip must meet, for example `motion > 0.5 and border < 0.02`. It can use the
    clip's measures and numbers such as `source_height`. null: every clip is kept. Not available
    with `whole`."""

    @property
    def takes_images(self) -> bool:
        """Whether a shape has one frame. An image becomes a clip of one frame."""
        return not self.whole and 1 in {self.frames, *(bucket.frames for bucket in self.buckets)}

    def identity(self) -> dict[str, Any]:
        """Return the values that decide which clips are made, without those that have no effect."""
        out = {"frames", "height", "width"} if self.buckets else {"buckets"}
        out |= {"frames", "short"} if self.whole else {"whole", "chunk_frames"}
        windows = ("stride_s", "offset_s", "max_per_sample", "choose", "every_bucket")
        fields = type(self).model_fields
        out |= {name for name in windows if getattr(self, name) == fields[name].default}
        values = self.model_dump(mode="json", exclude=out | {"shots"})
        if self.shots is not None:
            values["shots"] = self.shots.identity()
        if self.whole and self.buckets:
            values["buckets"] = [bucket.model_dump(exclude={"frames"}) for bucket in self.buckets]
        values["measure"] = [name for name in MEASURES if name in self.measure]
        return {
            name: value
            for name, value in values.items()
            if name not in ("measure", "filter") or value
        }


class DecodeConfig(Section):
    """Actors that read and decode samples."""

    actors: PositiveInt | None = None
    """Number of actors. Each is one process on one CPU. null: one for each CPU that tokenizers and
    commits leave free."""
    timeout_s: Seconds = 60.0
    """Time in seconds without progress after which a decoder is killed and its video is
    quarantined."""
    memory_mb: PositiveInt = 2048
    """Maximum memory in MiB for decoding one video. 8K HEVC needs about 1200."""
    max_pixels: PositiveInt = 8192 * 4320
    """Maximum number of pixels of a picture. A video or image with larger pictures is quarantined.
    The default admits 8K."""
    max_gap_s: Seconds = 600.0
    """Maximum time in seconds for which one picture is shown, such as a slide of a lecture. A video
    with a longer gap between its timestamps is quarantined."""
    damage: Literal["strict", "decoder", "keep"] = "decoder"
    """Treatment of damage within a video. `strict`: the video ends at the first packet that the
    demuxer suspects. `decoder`: it ends where the decoder reports damage or the file is cut off.
    Suspect packets that decode are kept, and so are recordings that start between two key frames.
    `keep`: it never ends early; damaged pictures are used as the decoder conceals them."""

    def limits(self) -> dict[str, Any]:
        """Return the values that decide when a video is given up."""
        return self.model_dump(exclude={"actors"})


class SoundEncoderSpec(Section):
    """One encoder of sound, which is one column of the output."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the column: a-z, 0-9 and _, starting with a letter."""
    model: str
    """Class of the encoder: `transformers:EncodecModel`, `transformers:DacModel` or
    `transformers:MimiModel` for codes, `diffusers:AutoencoderOobleck` for latents."""
    weights: str
    """Folder with the weights in the layout of the library, which every node can read, or an id on
    the Hub."""


class AudioConfig(Section):
    """Sound of the clips, stored beside the tokens. This section is part of the fingerprint."""

    codec: Literal["flac", "opus", "pcm16"] = "flac"
    """Codec of the stored sound. `flac` is exact and takes a third to a half of `pcm16`, which is a
    WAV file. `opus` takes 64 kbit/s and is not exact."""
    rate: Annotated[int, Field(ge=8000, le=192_000)] = 48_000
    """Number of samples per second, in Hz. Opus takes 8000, 12000, 16000, 24000 or 48000."""
    channels: Annotated[int, Field(ge=1, le=2)] = 2
    """Number of channels to which the sound of the source is mixed."""
    required: bool = False
    """Whether clips without sound are left out and counted as filtered."""
    encoders: list[SoundEncoderSpec] = Field(default=[])
    """Encoders of the sound. Each writes one column of the output. `rate` and `channels` must be
    those that the encoders take."""

    def identity(self) -> dict[str, Any]:
        """Return the values that decide which clips are made, and how their sound is stored."""
        return self.model_dump(exclude={"encoders"})


class MaxLoss(Section):
    """Limit for what a clip loses when its code indices follow the scene."""

    max_loss_db: Annotated[float, Field(ge=0, le=10)]
    """Maximum loss of PSNR in dB, for each clip. To measure it, each clip is decoded a few times,
    which costs more than encoding it."""


class TokenizerSpec(Section):
    """Tokenizer of the job, which writes one column of the output."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the column: a-z, 0-9 and _, starting with a letter."""
    model: ModelName
    """Name of the model: one of `vidtok.list_models()`, `diffusers:CLASS`, or `PACKAGE:NAME` of a
    package that registers tokenizers."""
    weights: str | None = None
    """Path of a checkpoint that every node can read; for diffusers also a folder or an id of the
    Hub. `hub`: the released checkpoint. `random`: a seeded initialisation, whose tokens carry no
    meaning. null: the weights bundled with the package, or an error if there are none."""
    precision: Precision = "float32"
    """Arithmetic of the encoder. On GPUs the half precisions are faster. `fp16` changed 0.9 % of a
    trained model's FSQ indices, `bf16` 17 %. So use `fp16` on GPUs. Use `bf16` for models that
    overflow `fp16`, and on CPUs with AMX or AMD's AVX-512. Other CPUs accept only `float32`."""
    compile: bool = False
    """Whether torch.compile rewrites the encoder for its GPU and the clips' shape. Values change by
    rounding, so it is part of the fingerprint. Each actor compiles each shape once, which can take
    minutes. Only for models of this package on GPUs, and not with `clip.whole`."""
    batch: PositiveInt = 8
    """Number of clips in one encoder call on a GPU. On a CPU each call takes one clip. Decode
    actors send clips in blocks of the largest `batch` of all tokenizers."""
    dtype: Literal["float16", "bfloat16", "float32", "uint8"] | None = None
    """Data type of stored latents. null: float16. `uint8` takes half the bytes of `float16`: each
    channel of a clip is rounded to equal steps between its minimum and maximum, and readers return
    floats. Must be left out for code indices, which have the smallest unsigned integer type that
    holds the codebook."""
    bits: Annotated[int, Field(ge=5, le=8)] | None = None
    """Number of bits of a latent with `dtype: uint8`: 2^bits - 1 steps. null: 8. Fewer bits take
    fewer bytes, because the column is compressed."""
    logvar: bool = False
    """Whether KL log-variances are stored in addition to the means. Not with `dtype: uint8`."""
    scale: Literal["1/2", "1/3", "1/4"] | None = None
    """Size of the frames that this tokenizer gets, as a fraction of the clip's height and width.
    Each of its pixels is the exact mean of a block of the clip's pixels. null: the clip's size."""
    every: PositiveInt = 1
    """Step between the frames that this tokenizer gets: 2 takes every second frame, from the
    first."""
    hold: MaxLoss | None = None
    """Replacement of code indices that hardly change: an index close to the one before it in time
    becomes equal to it. So still parts of a scene need fewer bits. null: no replacement. Only for
    FSQ, and not with `clip.whole`."""
    channels: MaxLoss | None = None
    """Smallest number of FSQ channels that each clip needs, stored as column `N_channels`. The
    indices do not change. null: no such column. Only for VidTok models with a channels file beside
    their weights (`python -m vidtok channels`), and not with `clip.whole`."""

    @property
    def divisor(self) -> int:
        """Divisor of the clip's height and width that `scale` names."""
        return 1 if self.scale is None else int(self.scale.removeprefix("1/"))

    @property
    def stored_bits(self) -> int | None:
        """Bits of a stored latent in `uint8`; None for other types."""
        return (self.bits or 8) if self.dtype == "uint8" else None


class ModelActors(Section):
    """Actors that hold models."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the models. `auto`: GPUs if the cluster has any, otherwise CPUs."""
    actors: PositiveInt | None = None
    """Number of actors. null: one per GPU, or one per two CPUs if there is no GPU."""
    gpus_per_actor: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of a GPU for each actor. With less than 1, several actors share a GPU."""
    threads: PositiveInt = 1
    """Number of CPU threads, and of CPUs, of an actor without a GPU. Another number can change the
    last bits of the result."""


def _tile(value: Any) -> Any:
    if value is None or value == "auto" or (type(value) is int and value > 0):
        return value
    raise PydanticCustomError("tile", "must be a number of pixels such as 512, auto or null")


Tile = Annotated[
    int | Literal["auto"] | None,
    PlainValidator(_tile, json_schema_input_type=PositiveInt | Literal["auto"] | None),
]
"""Size of the tiles of a picture: see `TokenizeConfig.tile`."""


class TokenizeConfig(ModelActors):
    """Actors that hold the models."""

    tile: Tile = "auto"
    """Size in pixels of the tiles in which VidTok models process large pictures: a tile is at most
    as large as a square with this side. The tokens are those of the whole picture, so this is not
    part of the fingerprint. Latents can differ in their last bit. `auto`: whole pictures if one
    clip fits into the free memory, otherwise the largest tiles that fit. It is the default because
    it costs no time if they fit. null: always whole pictures."""

    decode_back_one_in: PositiveInt | None = None
    """Decode one clip in N back to pixels right after tokenization, and record its PSNR. null: no
    clip. Clips are chosen by a hash of their id. Off by default, because decoding needs about five
    times the memory of encoding. Not available for clips that are whole videos."""


class CommitConfig(Section):
    """Sizes of the Parquet files, and how units are committed."""

    row_group_mb: PositiveInt = 4
    """Size in MiB at which a Parquet row group ends. A random read decodes one row group."""
    part_mb: PositiveInt = 256
    """Size in MiB at which a Parquet file ends and the next begins."""
    open_units: PositiveInt = 8
    """Maximum number of commit tasks that run at the same time. At this number the job stops
    reading input (back-pressure). A task commits one unit, or up to 32 small ones."""
    log_every_s: Seconds = 5.0
    """Time in seconds between appends to the commit log. A killed driver loses at most this much
    work."""
    unit_attempts: PositiveInt = 3
    """Number of attempts after which a unit is reported as failed."""


class OutputConfig(Section):
    """The dataset that the job writes."""

    uri: Annotated[str, Field(min_length=1)]
    """Folder of the dataset, or any prefix that fsspec can open."""
    alone: bool = False
    """Whether no other process writes to the output. Set this only if that is certain. It allows
    stores without conditional writes, on which two drivers could overwrite each other's commits."""
    storage_options: dict[str, Any] = Field(default={})
    """Options for fsspec, such as endpoint and credentials. They are never written to disk."""


class JobConfig(Section):
    """A corpus job."""

    source: VideoSource
    clip: ClipConfig
    tokenizers: Annotated[list[TokenizerSpec], Field(min_length=1)]
    output: OutputConfig
    audio: AudioConfig | None = None
    """Sound of the clips, stored beside the tokens. null: no sound is stored. This section is part
    of the fingerprint."""
    tracks: list[TrackConfig] = Field(default=[])
    """Actions, poses or sensors, stored for each frame of a clip. This section is part of the
    fingerprint."""
    decode: DecodeConfig = DecodeConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    commit: CommitConfig = CommitConfig()
    max_quarantine_rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Maximum fraction of samples, and of clips, that can be quarantined. Above it the job stops,
    after at least 100 of them, because a wrong setting or a broken source is likely."""
    max_alike_units: PositiveInt | None = 3
    """Number of first units after which the job stops if all their samples, or all their clips, are
    quarantined for the same reason, such as a missing folder or a wrong setting. None of these
    units is committed. null: no limit."""
    max_wait_s: Seconds = 600.0
    """Maximum time in seconds that a stage can be without a running actor, for example because its
    only GPU is lost. Then the job ends with exit code 1. Raise it if nodes are replaced slowly. For
    the first actor of a stage, a job waits up to six hours."""
    slice: Annotated[str, Field(pattern=r"^\d+/\d+$")] | None = None
    """Part of the plan that this driver works on: `3/16` is the fourth of 16 parts. All drivers
    write to one output. null: the whole plan."""

    @property
    def row_clips(self) -> int:
        """Number of clips in a row between decode and tokenize: the largest tokenizer batch."""
        return max(spec.batch for spec in self.tokenizers)
