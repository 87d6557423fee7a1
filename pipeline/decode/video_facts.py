"""What the header of a file and its first picture say, without decoding the rest."""

from collections.abc import Callable
from typing import BinaryIO

from pipeline.decode.clip_rule import ClipRule, DecodeLimits
from pipeline.decode.container.video import open_video
from pipeline.decode.image import image_clips
from pipeline.decode.pixels.frame_converter import FrameConverter
from pipeline.records import VideoFacts

_ONE_PICTURE = ClipRule(frames=1, height=1, width=1, fps=None, short="drop")


def video_facts(
    file: BinaryIO, limits: DecodeLimits, progress: Callable[[], None], *, is_image: bool
) -> VideoFacts:
    """Return the facts of a video or image.

    Args:
        file: readable and seekable, at its beginning.
        limits: as `open_video`.
        progress: as `Video.frames`.
        is_image: whether the file is an image.

    Raises:
        DecodeFault: the file cannot be opened, or no picture can be decoded.
    """
    if is_image:
        fit = next(image_clips(file, [_ONE_PICTURE], limits)).fit
        return VideoFacts(height=fit.display_height, width=fit.display_width)
    with open_video(file, limits) as video:
        first = next(iter(video.frames(progress)))
        converter = FrameConverter("uint8", video.declared, limits.max_pixels)
        height, width = converter.display(first.frame)
        return VideoFacts(
            height=height,
            width=width,
            fps=video.source_fps,
            length_s=video.declared.length_s,
            codec=video.declared.codec,
            has_sound=video.declared.has_sound,
        )
