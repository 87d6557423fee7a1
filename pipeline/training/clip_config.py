"""What training clips are made of: the videos, the shape of a clip, and how clips are mixed."""

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
"""Frames per second."""


class ClipShape(Section):
    """The size of clips, and what is drawn at random in them."""

    frames: PositiveInt
    """Frames of a clip. Causal models of temporal factor f take 1 + f·k."""
    height: PositiveInt
    """Pixels of a clip."""
    width: PositiveInt
    """Pixels of a clip."""
    short_side: PositiveInt | None = None
    """Size at which videos are decoded: they cover height × width scaled until its shorter side has
    this many pixels. Clips are cropped from there. null: no larger than the clip."""
    min_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Scale of a clip's picture, drawn uniformly from min_scale to 1: at 0.75 a window a third
    larger on each side is cropped and resized, or the largest that the picture holds."""
    fps: list[Rate] = Field(default=[3.0], min_length=1)
    """Frame rates, one drawn per clip and met in whole steps of the source; one above the source's
    takes every frame. A low rate shows the network much motion at once, which helps at all rates.
    Where a clip does not fit into its segment, the rate rises until it does."""
    decode_fps: Rate | None = None
    """Frame rate at which videos are decoded, by presentation time; null takes the source's."""
    flip: bool = True
    """Whether half of the clips are mirrored, left to right."""
    segment_frames: PositiveInt = 192
    """Consecutive frames of one video that are decoded and held together, and that clips are cut
    from. 17 frames at 3 fps of a 30 fps source need 163."""
    windows_per_segment: PositiveInt = 4
    """Clips cut from one segment per epoch."""
    shuffle_segments: PositiveInt = 8
    """Segments that clips are drawn from at a time, per worker; a segment of 192 frames of 256×455
    pixels takes 64 MiB."""

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
        """`(height, width)` that a decoded picture covers: the clip's, scaled to `short_side`."""
        shorter = min(self.height, self.width)
        side = self.short_side or shorter
        return round(self.height * side / shorter), round(self.width * side / shorter)


class ClipSourceConfig(VideoSource, ClipShape):
    """Videos as a stream of random clips of one shape."""

    keep_mb: NonNegativeInt = 0
    """MiB of decoded segments that each worker keeps from one epoch to the next, so that a corpus
    which fits is decoded once. The clips are the same."""
    seed: int = 0
    """Decides order and windows, with epoch, rank and worker."""


def _at_least(least: int, value: int, what: str) -> int:
    if value < least:
        # Of pydantic's own kind: its text comes out as it is, behind the field's name.
        raise PydanticCustomError(
            "too_small",
            "must be at least {least}, the clip's {what}",
            {"least": least, "what": what},
        )
    return value
