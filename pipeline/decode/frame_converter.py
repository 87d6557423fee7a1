"""From one decoded frame to the pixels of the bucket.

Colour follows the matrix and range of the container, then of the picture. Rules where files leave
a choice:

- No matrix declared: BT.601 for every size, as in the reference's reader.
- 8-bit video: swscale's default conversion, byte for byte as in the reference's reader.
- More bits: the same matrix with exact rounding; the default is two levels too dark.
- PQ and HLG: mapped to standard range, see `hdr.py`. BT.2020 in standard range: its matrix, with
  unchanged primaries.
- Alpha: over black, in VP8 and VP9 as in every other codec.
- Grey: R = G = B, stretched if a limited range is declared.
- Interlaced: both fields woven; no frame is interpolated.
"""

import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, Literal

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.decode.buckets import best_size
from pipeline.decode.damage import DecodeFault
from pipeline.decode.declared import Colour, Declared
from pipeline.decode.geometry import Fit, Orientation, display_size, fit_frame
from pipeline.decode.hdr import Transfer, to_standard_range
from pipeline.decode.resize import resize

FAST = Interpolation.BILINEAR


EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


GBRP16_WHITE = 255 * 256
"""Value of white in swscale's 16-bit RGB formats: eight bits shifted, not stretched."""


_LIMITED_GREY = np.clip((np.arange(256) - 16) * 255 / 219 + 0.5, 0, 255).astype(np.uint8)


class FrameConverter:
    """Turns decoded frames into pixels of the bucket; keeps swscale's tables between frames.

    Args:
        sizes: `(height, width)` to choose from: all frames get the one in which the first frame
            loses least.
        dtype: dtype of the result, `uint8` or `float32`; both in [0, 255].
        declared: what the container says of the pictures.
        max_pixels: maximum number of pixels of a picture before the crop.
        whole: whether frames are not cropped. The first frame is scaled to cover the size, and all
            others get its size, so a video that changes its size keeps one.
    """

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        dtype: Literal["uint8", "float32"],
        declared: Declared,
        max_pixels: int,
        *,
        whole: bool = False,
    ) -> None:
        self._sizes = sizes
        self._size: tuple[int, int] | None = None
        self._whole = whole
        self._float = dtype == "float32"
        self._declared = declared
        self._colour = Colour(declared)
        self._max_pixels = max_pixels
        self._seen: tuple[int, int, int, Fraction] | None = None
        self._orientation = Orientation()
        self._window = (0, 0, 0, 0)
        self._fit: Fit | None = None
        self._reformat: Callable[..., VideoFrame] = VideoReformatter().reformat

    def convert(self, frame: VideoFrame) -> tuple[NDArray[Any], Fit]:
        """Return the frame's pixels `[H, W, 3]` and their place in the source.

        Raises:
            DecodeFault: `unsupported`, if the picture is larger than the limit once displayed
                or scaled, or if its pixel format cannot be converted.
        """
        fit = self._place(frame)
        try:
            pixels = self._rgb(self._colour.tag(frame), fit)
        except (av.error.FFmpegError, ValueError) as error:
            # A MemoryError of libav is also an FFmpegError, and not a fault of the format.
            if isinstance(error, MemoryError):
                raise
            raise DecodeFault(
                "unsupported", f"pixel format {frame.format.name}: {error}"
            ) from error
        if pixels.dtype == np.uint8 or self._float:
            return pixels, fit
        return np.rint(pixels).astype(np.uint8), fit

    def _place(self, frame: VideoFrame) -> Fit:
        """Find where a frame's pixels go only if that may differ from the previous frame.

        Reading a display matrix makes PyAV put the frame into a reference cycle, which keeps
        megabytes of memory until the collector runs.
        """
        own: Any = frame.opaque
        aspect = self._declared.aspect_of(own[0]) if own else self._declared.aspect
        seen = (frame.width, frame.height, frame.rotation, aspect)
        if seen != self._seen or self._fit is None:
            self._orientation = display_orientation(frame)
            self._window = self._declared.crop.window(frame.height, frame.width)
            self._fit = self._fitted(frame, aspect)
            self._seen = seen
        return self._fit

    def _fitted(self, frame: VideoFrame, aspect: Fraction) -> Fit:
        shown = display_size(*self._window[2:], aspect, self._orientation)
        if self._size is None:
            self._size = best_size(shown, self._sizes)
        fit = fit_frame(shown, self._size, whole=self._whole)
        for what, height, width in (
            ("displayed", fit.display_height, fit.display_width),
            ("scaled", fit.resized_height, fit.resized_width),
        ):
            if height * width > self._max_pixels:
                raise DecodeFault(
                    "unsupported",
                    f"a picture of {frame.width}x{frame.height} with pixels "
                    f"{aspect} wide would be {what} as {width}x{height}, "
                    f"more than decode.max_pixels = {self._max_pixels}",
                )
        if self._whole:
            self._size, self._whole = (fit.height, fit.width), False
        return fit

    def _rgb(self, frame: VideoFrame, fit: Fit) -> NDArray[Any]:
        transfer = frame.color_trc
        if transfer in (Transfer.PQ, Transfer.HLG) and not frame.format.is_rgb:
            wide = self._convert(frame, "gbrp16le", EXACT).astype(np.float32)
            signal = resize(wide, fit, self._orientation) / GBRP16_WHITE
            return to_standard_range(signal, Transfer(transfer)) * 255
        if has_alpha(frame.format.name):
            rgba = self._convert(frame, "rgba", FAST).astype(np.uint16)
            pixels = ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)
        else:
            flags = EXACT if bits(frame.format.name) > 8 else FAST
            pixels = self._convert(frame, "rgb24", flags)
            if frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG:
                pixels = _LIMITED_GREY[pixels]
        if self._float:
            pixels = pixels.astype(np.float32)
        return resize(pixels, fit, self._orientation)

    def _convert(self, frame: VideoFrame, target: str, flags: Interpolation) -> NDArray[Any]:
        converted = self._reformat(frame, format=target, interpolation=flags, threads=1)
        top, left, height, width = self._window
        return converted.to_ndarray()[top : top + height, left : left + width]


def display_orientation(frame: VideoFrame) -> Orientation:
    """Return how the frame is turned upright, from its display matrix."""
    carried: Any
    try:
        carried = frame.side_data  # typed as a dictionary in PyAV's stubs; it is a sequence too
    except ValueError:
        # Side data of a type that this PyAV does not know hides all others. The rotation can still
        # be read; a mirrored picture, which is rare, stays mirrored.
        return Orientation.from_degrees(frame.rotation)
    for data in carried:
        if data.type is SideData.DISPLAYMATRIX:
            return Orientation.from_matrix(struct.unpack("=9i", bytes(data)[:36]))
    return Orientation()


@cache
def bits(pixel_format: str) -> int:
    """Return the number of bits of a pixel format's widest component."""
    return max(component.bits for component in VideoFormat(pixel_format).components)


@cache
def has_alpha(pixel_format: str) -> bool:
    """Return whether the pixel format has alpha."""
    form = VideoFormat(pixel_format)
    return form.has_palette or any(component.is_alpha for component in form.components)
