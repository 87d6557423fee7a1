"""What to cut from a video, and what a video may cost.

`ClipRule` decides which pixels come out, so it belongs to the fingerprint of the tokens;
`DecodeLimits` only decides when to give up.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

MAX_FPS = 1000.0
"""No corpus is sampled faster; a larger number is a unit mistaken for another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRule:
    """The shape of a clip, and how frames are chosen and scaled to it.

    Raises:
        ValueError: a field is out of range; the text names it and the mend.
    """

    frames: int
    """Frames of a clip."""
    height: int
    """Pixels, after resizing and cropping."""
    width: int
    """Pixels, after resizing and cropping."""
    fps: float | None
    """Frames per second of presentation time; None takes every frame of the source once."""
    short: Literal["drop", "pad"]
    """What becomes of the frames left over at a video's end: no clip, or one filled up with copies
    of the last frame."""
    resize: Literal["uint8", "float32"] = "uint8"
    """Arithmetic and dtype of the resized pixels. `float32` keeps the fractions of a level that the
    reference tokenizer sees; `uint8` is within one level of it, and about three times as fast."""
    fit: Literal["crop", "whole"] = "crop"
    """What becomes of the picture that is scaled to cover height × width: cropped to it around the
    centre, or left whole. Whole, every frame of a video has the size that its first one comes to,
    and `height` and `width` are the least that a frame has."""

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: a clip has at least one")
        if self.fps is not None and not 0 < self.fps <= MAX_FPS:
            raise ValueError(
                f"fps = {self.fps}: must be above 0 and at most {MAX_FPS:g}; None takes every frame"
            )
        if self.short not in ("drop", "pad"):
            raise ValueError(f"short = {self.short!r}: use 'drop' or 'pad'")
        if self.resize not in ("uint8", "float32"):
            raise ValueError(f"resize = {self.resize!r}: use 'uint8' or 'float32'")
        if self.fit not in ("crop", "whole"):
            raise ValueError(f"fit = {self.fit!r}: use 'crop' or 'whole'")

    @property
    def interval_s(self) -> Fraction | None:
        """Seconds between two frames of a clip, None where the source decides.

        A float cannot say 30000/1001; the nearest fraction with a small denominator does.
        """
        return None if self.fps is None else 1 / Fraction(self.fps).limit_denominator(100_000)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(T, H, W, 3)` of a cropped clip, and the least of a whole one."""
        return self.frames, self.height, self.width, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """When a decode is given up. Nothing here changes the pixels of a video that passes.

    Raises:
        ValueError: a field is not positive.
    """

    timeout_s: float = 60.0
    """Seconds without progress (a packet read, a frame decoded) after which the child is killed.
    A long video that keeps moving never runs into it."""
    memory_mb: int = 2048
    """MiB that decoding may add to what the idle child holds, the file itself not counted.
    Measured: 4K H.264 needs 128 (256 with float32), 8K HEVC of ten bits 1024 (1536)."""
    max_pixels: int = 8192 * 4320
    """Pixels of one picture: as coded, as displayed and as scaled before the crop. The default
    admits 8K; what is larger is a damaged header more often than a film."""
    max_gap_s: float = 60.0
    """Seconds for which one frame may stand. A longer gap is a broken clock, and filling it would
    turn one frame into thousands of clips."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
