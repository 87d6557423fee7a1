"""How clips are made from a video, and how much time and memory a video may take.

`ClipRule` determines the pixels, so it is part of the fingerprint of the tokens. `DecodeLimits`
only determines when a video is given up.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Damage = Literal["strict", "decoder", "keep"]
"""When a video counts as damaged: as soon as the demuxer suspects a packet; if the decoder reports
damage, or the file ends too early; or never."""


MAX_FPS = 1000.0
"""Maximum sampling rate; a larger number is probably in another unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRule:
    """The shape of a clip, and how frames are chosen and scaled to it.

    Raises:
        ValueError: a field is out of range; the text names it and the fix.
    """

    frames: int
    """Number of frames of a clip."""
    height: int
    """Height of a clip in pixels, after resizing and cropping."""
    width: int
    """Width of a clip in pixels, after resizing and cropping."""
    fps: float | None
    """Number of frames per second of presentation time; None takes every source frame once."""
    short: Literal["drop", "pad"]
    """Treatment of the frames left over at a video's end: dropped, or padded to a clip with copies
    of the last frame."""
    resize: Literal["uint8", "float32"] = "uint8"
    """Arithmetic and dtype of the resized pixels. `float32` keeps the fractions of a level that the
    reference tokenizer sees. `uint8` is within one level of it, and about three times as fast."""
    fit: Literal["crop", "whole"] = "crop"
    """Treatment of the picture after it is scaled to cover height × width: cropped to it around the
    centre, or left whole. If whole, every frame of a video has the size of its first frame, and
    `height` and `width` are the minimum."""
    measure: tuple[str, ...] = ()
    """Measures that each clip gets, see `pipeline.decode.measures`."""

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

        A float cannot express 30000/1001; the nearest fraction with a small denominator can.
        """
        return None if self.fps is None else 1 / Fraction(self.fps).limit_denominator(100_000)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape `(T, H, W, 3)` of a cropped clip, and the minimum of a whole one."""
        return self.frames, self.height, self.width, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SoundRule:
    """How the sound of a clip is stored."""

    codec: Literal["flac", "opus", "pcm16"]
    """Codec of the stream: FLAC, Opus in Ogg, or 16-bit PCM in WAV."""
    rate: int
    """Number of samples per second."""
    channels: int
    """Number of channels: 1 or 2."""

    def samples(self, start_s: float, end_s: float) -> int:
        """Return the number of samples of a clip, from the times of its row."""
        return round((end_s - start_s) * self.rate)

    def most_bytes(self, samples: int) -> int:
        """Return an upper bound of the bytes of a stream."""
        return 3 * samples * self.channels + (1 << 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """Limits at which a video is given up. They do not change the pixels of a video within them.

    Raises:
        ValueError: a field is not positive.
    """

    timeout_s: float = 60.0
    """Number of seconds without progress (a packet read, a frame decoded) after which the decoder
    process is killed. The length of a video does not count."""
    memory_mb: int = 2048
    """Number of MiB that decoding may add to the idle decoder process, without the file itself.
    Measured: 4K H.264 needs 128 (256 with float32), 8K HEVC of ten bits 1024 (1536)."""
    max_pixels: int = 8192 * 4320
    """Maximum number of pixels of a picture as coded, as displayed and as scaled before the crop.
    The default admits 8K; a larger picture is usually a damaged header."""
    max_gap_s: float = 600.0
    """Maximum number of seconds for which one frame is shown, such as a slide of a lecture. A
    longer gap is a broken clock, and filling it could turn one frame into thousands of clips."""
    damage: Damage = "decoder"
    """Treatment of damage within a video."""

    def __post_init__(self) -> None:
        for name in ("timeout_s", "memory_mb", "max_pixels", "max_gap_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be above 0")
