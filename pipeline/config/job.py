"""What a job is: every setting with its unit, default and reason; not where it came from.

`pipeline.config.loading` reads one from YAML and the command line; a program may build one
directly. Values are taken as they are typed (`strict`): the string "17" is not a number.
`pipeline.job.config_checks` checks what needs the models (lengths, sizes, kinds of latent).
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt

from pipeline.config.section import Seconds, Section, as_float
from pipeline.config.source import VideoSource

Precision = Literal["float32", "bf16", "fp16"]


class BucketConfig(Section):
    """One shape of clips."""

    frames: PositiveInt | None = None
    """Frames of a clip. Causal models of temporal factor f take 1 + f·k; left out where the clip is
    the whole video."""
    height: PositiveInt
    """Pixels, after resizing and cropping."""
    width: PositiveInt
    """Pixels, after resizing and cropping."""


class ClipConfig(Section):
    """What is cut from a video; part of the fingerprint."""

    frames: PositiveInt | None = None
    """Of the one shape, as in `BucketConfig`. Either these three are given, or `buckets`."""
    height: PositiveInt | None = None
    """Likewise."""
    width: PositiveInt | None = None
    """Likewise."""
    buckets: list[BucketConfig] = Field(default=[])
    """Several shapes. Each video gets one of them: of those with the most frames that it fills (one
    frame is for pictures), the one in which its picture loses least; of equal ones the first."""
    whole: bool = False
    """Each video, or each span of a list, is one clip of all its frames: for v1.1 models, which
    encode it piece by piece. `frames` is left out then, and `short` plays no part."""
    chunk_frames: PositiveInt = 64
    """Frames of such a piece: a multiple of the models' temporal factor. More need more memory."""
    fps: Annotated[Seconds | None, Field(le=1000)] = None
    """Frames per second of presentation time; null takes every frame of the source once."""
    short: Literal["drop", "pad"] = "drop"
    """The frames left at a video's end: no clip, or one filled up with copies of the last frame."""
    resize: Literal["uint8", "float32"] = "uint8"
    """Arithmetic of the resize. `float32` keeps the fractions that the reference tokenizer sees, at
    four times the memory between decode and tokenize."""

    @property
    def takes_images(self) -> bool:
        """Whether a shape of one frame is asked for, which is what an image becomes."""
        return not self.whole and 1 in {self.frames, *(bucket.frames for bucket in self.buckets)}

    def identity(self) -> dict[str, Any]:
        """Return plain values that say which clips come out, in one form for each way to say so."""
        out = {"frames", "height", "width"} if self.buckets else {"buckets"}
        out |= {"frames", "short"} if self.whole else {"whole", "chunk_frames"}
        values = self.model_dump(mode="json", exclude=out)
        if self.whole and self.buckets:
            values["buckets"] = [bucket.model_dump(exclude={"frames"}) for bucket in self.buckets]
        return values


class DecodeConfig(Section):
    """The actors that read and decode."""

    actors: PositiveInt | None = None
    """One process and one CPU each; null takes what the cluster's CPUs leave."""
    timeout_s: Seconds = 60.0
    """Seconds without progress after which a decoder is killed and its video quarantined."""
    memory_mb: PositiveInt = 2048
    """MiB that decoding one video may take; 8K HEVC needs about 1200."""


class TokenizerSpec(Section):
    """One tokenizer: a column of the output."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    """Name of the column: a-z, 0-9 and _, beginning with a letter."""
    model: str
    """A name of `vidtok.list_models()`."""
    weights: str | None = None
    """Path of a checkpoint that every node can read; `hub` for the released one; null takes those
    bundled with the package, or a seeded initialisation where there are none."""
    precision: Precision = "float32"
    """Arithmetic of the encoder. The half precisions are faster and change some tokens."""
    batch: PositiveInt = 8
    """Clips per call on a GPU: with the bucket, all that the encoder's shape depends on. On a CPU
    clips go one by one; the largest batch of any tokenizer still is how many travel together."""
    dtype: Literal["float16", "bfloat16", "float32"] | None = None
    """How KL latents are stored; null means float16. FSQ indices take the smallest unsigned integer
    that holds the codebook."""
    logvar: bool = False
    """Whether KL log-variances are stored beside the means."""


class TokenizeConfig(Section):
    """The actors that hold the models."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes GPUs if the cluster has any."""
    actors: PositiveInt | None = None
    """null: one per GPU, or per two CPUs where there is no GPU."""
    gpus_per_actor: Annotated[float, BeforeValidator(as_float), Field(gt=0, le=1)] = 1.0
    """A fraction lets several actors share one GPU."""
    threads: PositiveInt = 1
    """CPU threads (and CPUs) of one actor without a GPU. Other numbers may round differently."""
    decode_back_one_in: PositiveInt | None = None
    """Of so many clips one is decoded back as soon as it is tokenized, and its PSNR goes into
    `stats`, the report and the metrics; null: none is. A hash of its id draws it. 1000 costs 0.2 %
    of the time, but decoding a clip takes about five times the memory that encoding it takes: hence
    not by itself. Not for clips that are whole videos."""


class CommitConfig(Section):
    """How rows become parts and parts become committed."""

    row_group_mb: PositiveInt = 4
    """MiB of rows in one Parquet row group: what a random read decodes."""
    part_mb: PositiveInt = 256
    """MiB at which the next Parquet file begins."""
    open_units: PositiveInt = 8
    """Commits under way at once; when as many are, the job stops pulling: its back-pressure."""
    log_every_s: Seconds = 5.0
    """Seconds between appends to the commit log. A killed driver loses at most that much."""
    unit_attempts: PositiveInt = 3
    """Passes that a unit may fail in before it is reported as failed."""


class OutputConfig(Section):
    """The dataset."""

    uri: Annotated[str, Field(min_length=1)]
    """A folder, or any prefix that fsspec opens."""
    alone: bool = False
    """Whether the user answers for it that nothing else writes there meanwhile: then a store that
    ignores conditional writes is taken, which could not keep two drivers apart."""
    storage_options: dict[str, Any] = Field(default={})
    """Passed to fsspec (endpoint, credentials). Never written into the output."""


class JobConfig(Section):
    """A whole job."""

    source: VideoSource
    clip: ClipConfig
    tokenizers: Annotated[list[TokenizerSpec], Field(min_length=1)]
    output: OutputConfig
    decode: DecodeConfig = DecodeConfig()
    tokenize: TokenizeConfig = TokenizeConfig()
    commit: CommitConfig = CommitConfig()
    max_quarantine_rate: Annotated[float, BeforeValidator(as_float), Field(ge=0, le=1)] = 1.0
    """Share of the samples that may be quarantined; above it, after 100 samples, the job stops: a
    wrong setting or a broken source is dearer than a pause."""
    slice: Annotated[str, Field(pattern=r"^\d+/\d+$")] | None = None
    """This driver's share of the plan, `3/16`, counted from 0; all drivers write to one output."""

    @property
    def row_clips(self) -> int:
        """Clips in one row between decode and tokenize: the largest batch of any tokenizer."""
        return max(spec.batch for spec in self.tokenizers)
