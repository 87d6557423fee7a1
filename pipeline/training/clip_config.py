"""Settings of training clips: their videos, their shape and how they are mixed."""

from typing import Annotated

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from pipeline.config.section import Seconds, Section
from pipeline.config.source import VideoSource

Rate = Annotated[Seconds, Field(le=1000)]
"""Frame rate in frames per second."""


class ClipShape(Section):
    """Size of the clips, and their random choices."""

    frames: PositiveInt
    """Number of frames of a clip. A causal model of temporal factor f takes 1 + f·k frames."""
    height: PositiveInt
    """Height of a clip in pixels."""
    width: PositiveInt
    """Width of a clip in pixels."""
    short_side: PositiveInt | None = None
    """Shorter side in pixels of the area that a decoded picture must cover. The area has the shape
    of a clip, and clips are cropped from the whole picture. null: the area is as large as a
    clip."""
    min_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Minimum scale of a clip. For each clip, a scale between this and 1 is drawn uniformly. At
    0.75, a window that is a third larger on each side is cropped and resized, or the largest that
    fits."""
    fps: list[Rate] = Field(default=[3.0], min_length=1)
    """Frame rates in frames per second; one is drawn for each clip. A clip takes every n-th frame
    of the source, or every frame if the rate is higher than the source's. If a clip does not fit
    into its segment, the rate rises until it does. Training at a low rate shows much motion, which
    helps at all rates."""
    decode_fps: Rate | None = None
    """Frame rate at which videos are decoded, by presentation time. null: that of the source."""
    flip: bool = True
    """Whether half of the clips are mirrored left to right."""
    segment_frames: PositiveInt = 192
    """Number of consecutive frames that are decoded together, and from which clips are cut. A clip
    of 17 frames at 3 fps needs 163 frames of a 30 fps source."""
    windows_per_segment: PositiveInt = 4
    """Number of clips cut from one segment in an epoch."""
    shuffle_segments: PositiveInt = 8
    """Number of segments that a worker holds in memory to draw clips from. A segment of 192 frames
    of 256×455 pixels takes 64 MiB."""

    @field_validator("short_side")
    @classmethod
    def _covers(cls, value: int | None, info: ValidationInfo) -> int | None:
        sides = [info.data[name] for name in ("height", "width") if name in info.data]
        return value if value is None else _at_least(min(sides, default=1), value, "shorter side")

    @field_validator("segment_frames")
    @classmethod
    def _holds(cls, value: int, info: ValidationInfo) -> int:
        return _at_least(info.data.get("frames", 1), value, "frames")

    @property
    def decoded(self) -> tuple[int, int]:
        """Size `(height, width)` that a decoded picture covers: a clip's, with `short_side`."""
        shorter = min(self.height, self.width)
        side = self.short_side or shorter
        return round(self.height * side / shorter), round(self.width * side / shorter)


class ClipSourceConfig(VideoSource, ClipShape):
    """Videos as a stream of random clips of one shape."""

    keep_mb: NonNegativeInt = 0
    """Decoded segments in MiB that each worker keeps from one epoch to the next. A corpus that fits
    is decoded once. The clips are the same."""
    seed: int = 0
    """Random seed of order and windows, together with epoch, rank and worker."""


def _at_least(least: int, value: int, what: str) -> int:
    if value < least:
        # pydantic shows the text of this class without a prefix.
        raise PydanticCustomError(
            "too_small",
            "must be at least {least}, the clip's {what}",
            {"least": least, "what": what},
        )
    return value
