"""What a container says of its pictures: shape of a pixel, crop, colour.

It counts before what the coded pictures say (ISO/IEC 14496-12, sections 12.1.4 and 12.1.5, and RFC
9559, section 5.1.4.1.28). FFmpeg mixes the two: where the container is silent, a stream has the
value of its first picture. So the value of a stream is the container's if it differs from that of
the first picture. Otherwise each picture's own value counts, which can change in mid-stream.
"""

import re
import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, NamedTuple

import av.logging
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from av.video.stream import VideoStream

from pipeline.decode.pixels.hdr import Transfer

BOXES = ("mov,mp4", "matroska,webm")
"""Containers whose colour counts before that of the coded pictures."""


UNSTATED = {"colorspace": 2, "color_range": 0, "color_trc": 2}
"""Attributes of a frame that state its colour, and the value of each that states nothing."""


RGB_MATRIX = 0
"""The matrix of R'G'B'; a Y'CbCr picture cannot have it."""


MOST_BOXES = 1000
"""Maximum number of boxes of a file in which its header is searched for."""


MOST_HEADER_BYTES = 1 << 24
"""Maximum number of bytes of a header that are searched; a sample entry precedes its tables."""


_CROP = re.compile(r"^ {6}Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)$", re.MULTILINE)


class Crop(NamedTuple):
    """Number of rows and columns of a coded picture that are not shown."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def window(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return `(top, left, height, width)` of what is shown of a picture of this size.

        All of it is shown where the crop leaves nothing.
        """
        rows, columns = height - self.top - self.bottom, width - self.left - self.right
        if rows < 1 or columns < 1:
            return 0, 0, height, width
        return self.top, self.left, rows, columns


WHOLE = Crop()


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What a container says of the pictures of one stream."""

    aspect: Fraction = Fraction(1)
    """Width of a pixel over its height."""
    replaced_aspect: Fraction | None = None
    """What the pictures say instead of `aspect`; another value counts. None: no other counts."""
    crop: Crop = WHOLE
    """Part of each coded picture that is not shown."""
    colour: tuple[tuple[str, int], ...] = ()
    """Attributes of a frame (`UNSTATED`) and their values, of those that are stated."""
    before_coded: bool = False
    """Whether `colour` counts before what the first picture says of itself."""
    length_s: float | None = None
    """Length in seconds."""
    codec: str = ""
    """FFmpeg's name of the codec."""
    has_sound: bool = False
    """Whether there is a stream of sound."""

    def aspect_of(self, own: Fraction) -> Fraction:
        """Return the width of a pixel over its height, of a picture that states its own."""
        return self.aspect if self.replaced_aspect in (None, own) else own


def declared(container: InputContainer, stream: VideoStream, file: BinaryIO) -> Declared:
    """Read what the container says, before anything of the stream is decoded.

    Args:
        container: of `file`.
        stream: of the pictures.
        file: seekable; its position is kept.
    """
    context = stream.codec_context
    crop = _crop(container, stream)
    aspect = positive(stream.sample_aspect_ratio)
    coded = positive(context.sample_aspect_ratio)
    # Many containers state a size in whole pixels instead.
    differs = abs(aspect - coded) * context.width >= 1
    derived = differs and container.format.name.startswith("mov")
    if derived and crop != WHOLE and not states_aspect(file):
        # FFmpeg has divided the size at which the picture is shown by the coded size.
        _, _, rows, columns = crop.window(context.height, context.width)
        aspect *= Fraction(context.width * rows, context.height * columns)
    colour = ((name, getattr(context, name)) for name in UNSTATED)
    return Declared(
        aspect=aspect,
        replaced_aspect=None if differs else coded,
        crop=crop,
        colour=tuple((name, value) for name, value in colour if value != UNSTATED[name]),
        before_coded=container.format.name.startswith(BOXES),
        length_s=_length_s(container, stream),
        codec=context.codec.canonical_name,
        has_sound=bool(container.streams.audio),
    )


def _length_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _crop(container: InputContainer, stream: VideoStream) -> Crop:
    """Return the crop; PyAV shows it only in FFmpeg's description of the file."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        text = container.dumps_format()  # type: ignore[attr-defined] # missing in PyAV's stubs
    finally:
        av.logging.set_level(level)
    section = re.search(
        rf"^  Stream #0:{stream.index}\b.*?(?=^  Stream #|\Z)", text, re.MULTILINE | re.DOTALL
    )
    found = _CROP.search(section[0]) if section else None
    return Crop(*map(int, found.groups())) if found else WHOLE


def states_aspect(file: BinaryIO) -> bool:
    """Return whether the header of an MP4 or QuickTime file states the shape of a pixel (`pasp`).

    Args:
        file: seekable; its position is kept.
    """
    before, at = file.tell(), 0
    try:
        for _ in range(MOST_BOXES):
            file.seek(at)
            head = file.read(16)
            if len(head) < 16:
                break
            short, kind, long = struct.unpack(">I4sQ", head)
            size = {0: MOST_HEADER_BYTES, 1: long}.get(short, short)  # 0: until the end
            if kind == b"moov":
                file.seek(at)
                return b"pasp" in file.read(min(size, MOST_HEADER_BYTES))
            at += size
            if short == 0 or at >= 1 << 62:
                break
        return False
    finally:
        file.seek(before)


def positive(aspect: Fraction | None) -> Fraction:
    """Return the shape of a pixel: square if none is stated."""
    return Fraction(aspect) if aspect and aspect > 0 else Fraction(1)


class Colour:
    """Gives frames the colour that counts, the container's or their own."""

    def __init__(self, declared: Declared) -> None:
        self._stated = declared.colour
        self._before_coded = declared.before_coded
        self._replaced: frozenset[str] | None = None

    def tag(self, frame: VideoFrame) -> VideoFrame:
        """Return the frame, or its copy in another pixel format, with the colour that counts."""
        if not self._stated or frame.format.is_rgb or frame.format.has_palette:
            return frame
        if self._replaced is None:
            self._replaced = frozenset(
                name for name, value in self._stated if self._differs(frame, name, value)
            )
        for name, value in self._stated:
            own = getattr(frame, name)
            if own == value or not (own == UNSTATED[name] or name in self._replaced):
                continue
            if name == "colorspace" and value == RGB_MATRIX:
                continue
            if name == "color_range" and value == ColorRange.MPEG and _is_full(frame):
                frame = _of_any_range(frame)
            setattr(frame, name, value)
        return frame

    def _differs(self, frame: VideoFrame, name: str, value: int) -> bool:
        own = getattr(frame, name)
        # A message in the stream can say HLG where the header and the container say BT.2020.
        return self._before_coded and own != value and (name, own) != ("color_trc", Transfer.HLG)


def _is_full(frame: VideoFrame) -> bool:
    return frame.format.name.startswith("yuvj")


def _of_any_range(frame: VideoFrame) -> VideoFrame:
    """Return the same planes in a pixel format whose name does not say full range."""
    return frame.reformat(
        format=frame.format.name.replace("yuvj", "yuv"),
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.JPEG,
    )
