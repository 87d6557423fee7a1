"""The test videos as objects that know the truth about their files.

The facts come from the containers and from looking at the pictures, not from the code under test.
Where a file comes from: `tests/data/README.md`.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

DATA = Path(__file__).parent / "data"
VIDEOS = DATA / "videos"
GOLDENS = DATA / "goldens"


@dataclass(frozen=True)
class GoodVideo:
    """A video that decodes whole. Sizes are upright and with square pixels."""

    name: str
    height: int
    width: int
    frames: int
    fps: float
    start_s: float = 0.0
    """When its first frame is displayed."""
    picks_at_8_fps: int = 0
    """How many of the moments 0, 1/8, 2/8, … have a frame."""

    @property
    def path(self) -> Path:
        return VIDEOS / self.name


@dataclass(frozen=True)
class BrokenVideo:
    """A video that must end in the quarantine."""

    name: str
    reason: str
    says: str
    """Words that the detail must hold, for a person."""
    good_frames: int = 0
    """Frames before the first damage, at least."""

    @property
    def path(self) -> Path:
        return VIDEOS / "broken" / self.name


VIDTOK_EXAMPLE = GoodVideo("vidtok_example.mp4", 256, 256, 136, 30.0, picks_at_8_fps=37)
BIKES = GoodVideo("bikes.mp4", 272, 640, 250, 25.0, picks_at_8_fps=80)
HIKER = GoodVideo("hiker_tiny.mp4", 240, 368, 49, 8.0, picks_at_8_fps=49)
VFR = GoodVideo("odd/vfr.mp4", 272, 640, 38, 475 / 28, picks_at_8_fps=18)
"""25 fps with one frame that stands for 0.76 s."""
ROTATED = (
    GoodVideo("odd/video_90.mov", 568, 320, 3, 30.0, picks_at_8_fps=1),
    GoodVideo("odd/video_180.mov", 320, 568, 3, 30.0, picks_at_8_fps=1),
    GoodVideo("odd/video_270.mov", 568, 320, 3, 30.0, picks_at_8_fps=1),
)
TEN_BITS = (
    GoodVideo("odd/h264_10bits.mp4", 200, 200, 30, 30.0, picks_at_8_fps=8),
    GoodVideo("odd/h265_10bits.mp4", 200, 200, 30, 30.0, picks_at_8_fps=8),
)
NO_PTS = GoodVideo(
    "odd/b_frames_without_pts.avi", 240, 368, 40, 25.0, start_s=0.04, picks_at_8_fps=13
)
ODD_SIZE = GoodVideo(
    "odd/odd_321x243.mp4", 243, round(321 * Fraction(135, 107)), 56, 28.0, picks_at_8_fps=16
)
ONE_FRAME = GoodVideo("odd/one_frame.mp4", 240, 368, 1, 24.0, picks_at_8_fps=1)

GOOD = (
    VIDTOK_EXAMPLE,
    BIKES,
    HIKER,
    VFR,
    *ROTATED,
    *TEN_BITS,
    NO_PTS,
    ODD_SIZE,
    ONE_FRAME,
    GoodVideo("odd/120fps_64x36.mp4", 36, 64, 119, 120.0, picks_at_8_fps=8),
    GoodVideo("odd/av1_video.mkv", 360, 640, 125, 25.0, picks_at_8_fps=40),
    GoodVideo("odd/editlist_negative_pts.mp4", 272, 640, 42, 25.0, picks_at_8_fps=14),
    GoodVideo(
        "odd/mpeg1.mpg", 270, 480, 60, 30000 / 1001, start_s=48003 / 90000, picks_at_8_fps=16
    ),
    GoodVideo("odd/theora.ogv", 270, 480, 60, 30000 / 1001, picks_at_8_fps=16),
    GoodVideo("odd/unordered.mov", 50, 50, 4, 32.0, picks_at_8_fps=1),
)

BROKEN = (
    BrokenVideo("audio_only.m4a", "no_video_stream", "audio"),
    BrokenVideo("bitflips_hevc.mp4", "corrupt", "hevc"),
    BrokenVideo("corrupted.mp4", "corrupt", "h264", good_frames=17),
    BrokenVideo("header_only.mp4", "truncated", "moov"),
    BrokenVideo("random_bytes.mp4", "not_a_video", "no container"),
    BrokenVideo("text.mp4", "not_a_video", "no container"),
    BrokenVideo("truncated.webm", "truncated", "ended prematurely"),
    BrokenVideo("truncated_half.mp4", "truncated", "incomplete", good_frames=17),
    BrokenVideo("truncated_no_moov.mp4", "truncated", "moov"),
    BrokenVideo("zero_bytes.mp4", "not_a_video", "empty"),
    BrokenVideo("zeroed_middle.mp4", "corrupt", "h264", good_frames=17),
)
