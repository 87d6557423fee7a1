"""The records that travel between the stages, and how they are written into a Ray row.

    WorkUnit ─► Sample ─► (Clip, frames) ─► BatchRow … ClosingRow ─► payload rows ─► UnitRecord

Records are frozen dataclasses; those that cross a process boundary are JSON (`to_json`,
`from_json`), never pickles. Intervals are half-open.
"""

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeVar, cast

from pydantic import TypeAdapter

from pipeline.bucket_statistics import BucketStatistics, PsnrSums

Stage = Literal["read", "decode", "tokenize"]

REASONS: dict[str, str] = {
    # read
    "tar_truncated": "the tar ends in the middle of a member or without its end mark",
    "tar_unreadable": "the tar cannot be read",
    "tar_past_limit": "the tar would take more memory or time than a tar may",
    "file_unreadable": "the file cannot be read",
    "no_video": "the sample has no video",
    "several_videos": "the sample has more than one video, or image",
    "duplicate_key": "another sample of the same unit has this key",
    "too_large": "the video is larger than source.max_video_mb",
    "list_unreadable": "the list is damaged; the rest of the unit's rows is lost",
    "bad_row": "the list's row names no video, or a span that is none",
    # decode
    "not_a_video": "no container format was recognised",
    "no_video_stream": "the container holds no video stream",
    "no_frames": "not one frame could be decoded",
    "truncated": "fewer frames than the container declares",
    "corrupt": "the decoder reported damaged data",
    "unsupported": "codec, pixel format or geometry is not supported",
    "decode_error": "the decoder failed",
    "decode_timeout": "the decoder made no progress within decode.timeout_s",
    "decode_memory": "the decoder went over decode.memory_mb",
    "decode_crash": "the decoder process died",
    # tokenize
    "tokenizer_error": "the tokenizer failed on this clip alone",
    "non_finite": "the latent holds NaN or infinity",
}
"""Every reason that the quarantine knows, with what it means to a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LooseFile:
    """One video file that is not in a tar, with the sidecars that share its stem."""

    key: str
    uri: str
    sidecar_uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRows:
    """The rows [start, stop) of a list, counted from 0 without its header."""

    uri: str
    start: int
    stop: int
    known_row: int = 0
    """A row at or before `start` whose place is known, so that a text need not be read up to it."""
    known_byte: int = 0
    """Where that row begins, in bytes; 0 where row 0 does, and in Parquet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """What is planned, retried, committed and resumed: one tar, or a run of files or list rows."""

    unit: str
    tar_uri: str | None = None
    files: tuple[LooseFile, ...] = ()
    rows: ListRows | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The part of a video that a sample is: [start_s, end_s) after the video's beginning."""

    start_s: float = 0.0
    end_s: float | None = None
    """None: to the video's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One video or image with its sidecars. `video` is its bytes, or the path of a local file."""

    key: str
    video: bytes | str
    video_name: str
    caption: str | None = None
    meta: str | None = None
    """JSON object: name of the other sidecars → their content."""
    span: Span | None = None
    """None: the whole video."""
    is_image: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """Why one sample (`clip_index` None) or one clip did not become a row."""

    unit: str
    key: str
    clip_index: int | None
    stage: Stage
    reason: str
    detail: str
    attempts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Identity and provenance of one clip; its frames travel beside it.

    `start_s` and `end_s` are presentation times in the source; `crop` is (top, left, height,
    width) in pixels of the upright source as displayed, before resizing; `padded_frames` counts
    the copies of the last frame at the clip's end.
    """

    unit: str
    key: str
    clip_index: int
    start_s: float
    end_s: float
    source_fps: float
    source_height: int
    source_width: int
    crop: tuple[float, float, float, float]
    num_frames: int
    """Frames of the clip, copies included."""
    padded_frames: int = 0
    caption: str | None = None
    meta: str | None = None

    @property
    def clip_id(self) -> str:
        """`unit/key/clip_index`: follows from the input alone."""
        return f"{self.unit}/{self.key}/{self.clip_index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The shape that a clip is fitted to."""

    frames: int
    """0: as many as the video has, which is one clip whole."""
    height: int
    width: int

    @property
    def text(self) -> str:
        """`17 frames of 256×256`, for people."""
        return f"{self.frames or 'all'} frames of {self.height}×{self.width}"

    @property
    def name(self) -> str:
        """`17x256x256`, or `allx256x256`: the folder of its parts."""
        return f"{self.frames or 'all'}x{self.height}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHeader:
    """What a batch row says beside its frames `[N, T, H, W, 3]`.

    The row of a whole video carries its file instead, since its frames may be more than memory
    holds: `clips` is one, and `span` that of its sample.
    """

    unit: str
    seq: int
    bucket: Bucket
    clips: tuple[Clip, ...]
    span: Span | None = None

    def digest(self) -> str:
        """Digest of the ids and geometry: a replay that came out differently shows here."""
        return hashlib.sha256(to_json(self)).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Where every sample and clip of a unit went; adds up over units."""

    samples_read: int = 0
    samples_with_clips: int = 0
    samples_filtered: int = 0
    samples_quarantined: int = 0
    clips_seen: int = 0
    clips_written: int = 0
    clips_filtered: int = 0
    clips_quarantined: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{k: getattr(self, k) + getattr(other, k) for k in self.__slots__})

    def imbalance(self) -> str | None:
        """Return what does not add up, or None when every sample and clip is accounted for."""
        samples = self.samples_with_clips + self.samples_filtered + self.samples_quarantined
        if samples != self.samples_read:
            return f"{self.samples_read} samples read, {samples} accounted for"
        clips = self.clips_written + self.clips_filtered + self.clips_quarantined
        if clips != self.clips_seen:
            return f"{self.clips_seen} clips seen, {clips} accounted for"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The last row of a unit: what the commit checks the others against.

    `counts.clips_written` counts the clips that went into batch rows; the commit moves those that
    the tokenizer quarantined.
    """

    unit: str
    digests: tuple[str, ...]
    counts: Counts
    quarantined: tuple[Quarantined, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds of work by stage name, for the summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadHeader:
    """What the tokenizer says of one batch row beside its Arrow rows."""

    unit: str
    seq: int
    digest: str
    bucket: Bucket
    clip_ids: tuple[str, ...]
    quarantined: tuple[Quarantined, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    psnr: dict[str, PsnrSums] = field(default_factory=dict)
    """By tokenizer, of the clips that were decoded back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where in a merged part the rows of one unit stand, one after another."""

    first_row: int
    of_rows: int
    """Rows of the whole file, those of no unit that counts included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A unit's rows in one Parquet file of the output; the path is relative to the dataset's root.

    `bytes` and `sha256` are of the file, `rows` of the unit.
    """

    path: str
    bucket: str
    rows: int
    bytes: int
    sha256: str
    place: Place | None = None
    """In a merged part, which holds rows of several units; None: the file is this unit's alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """What the commit log keeps of one unit; nothing in it grows with the clips."""

    unit: str
    sources: tuple[str, ...]
    parts: tuple[Part, ...]
    quarantine: Part | None
    counts: Counts
    reasons: dict[str, int]
    timings: dict[str, float] = field(default_factory=dict)
    statistics: dict[str, BucketStatistics] | None = None
    """Of its rows, by bucket; None in a record of a release that gathered none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """A committed unit that is to be done again; until then its record counts."""

    unit: str
    sources: tuple[str, ...]
    """Those of its record: what the next plan makes the same unit of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A committed unit whose rows, the same as before, stand in other parts from a record on."""

    unit: str
    parts: tuple[Part, ...]
    """All of the unit's."""


Record = TypeVar("Record")


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def to_json(record: object) -> bytes:
    """Return a record as JSON bytes; the same record always gives the same bytes."""
    return _adapter(cast("Hashable", type(record))).dump_json(record)


def from_json(kind: type[Record], data: bytes | str) -> Record:
    """Read back what `to_json` wrote.

    Raises:
        pydantic.ValidationError: a field is missing, unknown in type, or not JSON.
    """
    record: Record = _adapter(cast("Hashable", kind)).validate_json(data)
    return record
