"""The records that sources, decoder and stages share, and their JSON form.

    WorkUnit ─► Sample ─► (Clip, frames)

Records are frozen dataclasses. They cross process boundaries as JSON (`to_json`, `from_json`),
never as pickles. Intervals are half-open.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from pydantic import TypeAdapter


def name_of(unit: str, key: str, clip_index: int | None) -> str:
    """Return `unit/key` of a sample, or `unit/key/clip_index` of a clip."""
    return f"{unit}/{key}" if clip_index is None else f"{unit}/{key}/{clip_index}"


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
    """Row at or before `start` at which reading a text can begin."""
    known_byte: int = 0
    """Offset of `known_row` in bytes; 0 for row 0 and in Parquet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRows:
    """The rows of one committed unit of another dataset."""

    source: str
    """Name of this state of the unit, which changes if the unit is done again."""
    parts: str
    """Parts that hold the rows, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """What is planned, retried and committed as one: a tar, or a run of files or list rows.

    A unit of a sibling dataset is the unit of that name of its parent.
    """

    unit: str
    tar_uri: str | None = None
    files: tuple[LooseFile, ...] = ()
    beside: tuple[str, ...] = ()
    """URIs of the tars beside `tar_uri` whose members are sidecars of its samples."""
    rows: ListRows | None = None
    parent: ParentRows | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The part of a video that belongs to a sample: [start_s, end_s) from the video's beginning."""

    start_s: float = 0.0
    end_s: float | None = None
    """End in seconds; None means the video's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One video or image with its sidecars. `video` is its bytes, or the path of a local file."""

    key: str
    video: bytes | str
    video_name: str
    caption: str | None = None
    meta: str | None = None
    """JSON object of the other sidecars: name → content."""
    span: Span | None = None
    """Part of the video; None means the whole video."""
    is_image: bool = False
    tracks: dict[str, Any] = field(default_factory=dict)
    """Tracks by name, each a `pipeline.sources.tracks.Track`."""


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
    """Number of frames of the clip, copies included."""
    padded_frames: int = 0
    caption: str | None = None
    meta: str | None = None
    dropped: str = ""
    """Rule by which the clip has no frames and becomes no row; empty for others."""
    side: dict[str, Any] = field(default_factory=dict)
    """Values of the side columns by name. They travel beside headers, never in them."""
    frame_times: tuple[float, ...] = ()
    """Seconds of the frames from the video's beginning; of copies, those of the last frame. The
    decode stage resamples tracks to them and stores none."""

    @property
    def clip_id(self) -> str:
        """Return `unit/key/clip_index`, which depends on the input alone."""
        return name_of(self.unit, self.key, self.clip_index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """The shape of a clip."""

    frames: int
    """Number of frames; 0 means all frames of the video, which is one clip."""
    height: int
    width: int

    @property
    def text(self) -> str:
        """Return `17 frames of 256×256`."""
        return f"{self.frames or 'all'} frames of {self.height}×{self.width}"

    @property
    def name(self) -> str:
        """Return `17x256x256` or `allx256x256`, the folder of the bucket's parts."""
        return f"{self.frames or 'all'}x{self.height}x{self.width}"

    @classmethod
    def named(cls, name: str) -> "Bucket":
        """Return the bucket of a `name`."""
        frames, height, width = name.removeprefix("all").split("x")
        return cls(frames=int(frames or 0), height=int(height), width=int(width))


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """What the header and the first picture of a video or image say of it."""

    height: int
    """Height in pixels of the upright picture with square pixels."""
    width: int
    fps: float | None = None
    """Average frame rate that the container declares; None for an image."""
    length_s: float | None = None
    """Length in seconds that the container declares; None if it declares none, and for an image."""
    codec: str | None = None
    """FFmpeg's name of the codec of the pictures, such as `h264`; None for an image."""
    has_sound: bool = False


Record = TypeVar("Record")


@cache
def _adapter(kind: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter  # a fork server needs none, and starts sooner

    return TypeAdapter(kind)


def to_json(record: object) -> bytes:
    """Return a record as JSON bytes; the same record always gives the same bytes."""
    return _adapter(cast("Hashable", type(record))).dump_json(record)


def from_json(kind: type[Record], data: bytes | str) -> Record:
    """Read back what `to_json` wrote; no type is converted into another.

    Raises:
        pydantic.ValidationError: the data is not JSON, or a field is missing or has another type.
    """
    record: Record = _adapter(cast("Hashable", kind)).validate_json(data, strict=True)
    return record


Range = tuple[int, int]
"""Rows [start, stop)."""


_NAME = re.compile(r"(.*)#rows=(\d{1,18})-(\d{1,18})", re.DOTALL)


def range_name(uri: str, start: int, stop: int) -> str:
    """Return the name of a range of rows as a source: `<uri>#rows=<start>-<stop>`."""
    return f"{uri}#rows={start}-{stop}"


def parse_range(source: str) -> tuple[str, int, int] | None:
    """Return `(uri, start, stop)` of a source that is a range of rows; None for another one."""
    found = _NAME.fullmatch(source)
    return (found[1], int(found[2]), int(found[3])) if found else None


def unit_sources(unit: WorkUnit) -> tuple[str, ...]:
    """Return the sources of a unit as its `UnitRecord` lists them: URIs, or a range of rows."""
    if unit.parent is not None:
        return (unit.parent.source,)
    if unit.rows is not None:
        return (range_name(unit.rows.uri, unit.rows.start, unit.rows.stop),)
    return (unit.tar_uri,) if unit.tar_uri else tuple(file.uri for file in unit.files)
