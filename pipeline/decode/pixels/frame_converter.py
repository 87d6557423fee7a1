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
from collections.abc import Callable
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

from pipeline.decode.damage import DecodeFault
from pipeline.decode.pixels.declared import Colour, Declared
from pipeline.decode.pixels.geometry import Fit, Orientation, display_size, fit_frame
from pipeline.decode.pixels.hdr import Transfer, to_standard_range
from pipeline.decode.pixels.resize import resize

FAST = Interpolation.BILINEAR


EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


GBRP16_WHITE = 255 * 256
"""Value of white in swscale's 16-bit RGB formats: eight bits shifted, not stretched."""


_LIMITED_GREY = np.clip((np.arange(256) - 16) * 255 / 219 + 0.5, 0, 255).astype(np.uint8)


class FrameConverter:
    """Turns the decoded frames of a video into pixels, in any number of sizes.

    The sizes share one colour conversion of a frame, and its pixels are kept until `release`, or
    until another frame comes. swscale's tables are kept between frames.

    Args:
        dtype: dtype of the result, `uint8` or `float32`; both in [0, 255].
        declared: what the container says of the pictures.
        max_pixels: maximum number of pixels of a picture before the crop.
        whole: whether frames are not cropped. The first frame is scaled to cover the size, and all
            others get its size, so a video that changes its size keeps one.
    """

    def __init__(
        self,
        dtype: Literal["uint8", "float32"],
        declared: Declared,
        max_pixels: int,
        *,
        whole: bool = False,
    ) -> None:
        self._whole = whole
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}
        """Sizes of whole pictures, by the size that they cover."""
        self._float = dtype == "float32"
        self._declared = declared
        self._colour = Colour(declared)
        self._max_pixels = max_pixels
        self._seen: tuple[int, int, int, Fraction] | None = None
        self._orientation = Orientation()
        self._window = (0, 0, 0, 0)
        self._fits: dict[tuple[int, int], Fit] = {}
        self._coloured: tuple[VideoFrame, NDArray[Any], Transfer | None] | None = None
        self._made: dict[tuple[int, int], NDArray[Any]] = {}
        self._reformat: Callable[..., VideoFrame] = VideoReformatter().reformat

    def display(self, frame: VideoFrame) -> tuple[int, int]:
        """Return `(height, width)` of the frame upright, with square pixels."""
        aspect = self._place(frame)
        return display_size(*self._window[2:], aspect, self._orientation)

    def fit(self, frame: VideoFrame, size: tuple[int, int]) -> Fit:
        """Return where the frame's pixels go in a size; it does not convert them.

        Raises:
            DecodeFault: `unsupported`, if the picture is larger than the limit once displayed
                or scaled.
        """
        aspect = self._place(frame)
        if (fit := self._fits.get(size)) is None:
            fit = self._fits[size] = self._fitted(frame, aspect, size)
        return fit

    def convert(self, frame: VideoFrame, size: tuple[int, int]) -> NDArray[Any]:
        """Return the frame's pixels `[H, W, 3]`, which must not be changed.

        Raises:
            DecodeFault: as `fit`, or `unsupported` if its pixel format cannot be converted.
        """
        if self._coloured is None or self._coloured[0] is not frame:
            self.release()
        if size not in self._made:
            self._made[size] = self._convert(frame, size)
        return self._made[size]

    def release(self) -> None:
        """Free the pixels of the last frame."""
        self._coloured = None
        self._made.clear()

    def _convert(self, frame: VideoFrame, size: tuple[int, int]) -> NDArray[Any]:
        fit = self.fit(frame, size)
        try:
            if self._coloured is None:
                self._coloured = frame, *self._rgb(self._colour.tag(frame))
            _, coloured, transfer = self._coloured
            pixels = resize(coloured, fit, self._orientation)
        except (av.error.FFmpegError, ValueError) as error:
            # A MemoryError of libav is also an FFmpegError, and not a fault of the format.
            if isinstance(error, MemoryError):
                raise
            raise DecodeFault(
                "unsupported", f"pixel format {frame.format.name}: {error}"
            ) from error
        if transfer is not None:
            pixels = to_standard_range(pixels / GBRP16_WHITE, transfer) * 255
        if pixels.dtype == np.uint8 or self._float:
            return pixels
        rounded: NDArray[Any] = np.rint(pixels).astype(np.uint8)
        return rounded

    def _place(self, frame: VideoFrame) -> Fraction:
        """Find where a frame's pixels go only if that may differ from the previous frame.

        Reading a display matrix makes PyAV put the frame into a reference cycle, which keeps
        megabytes of memory until the collector runs.
        """
        own: Any = frame.opaque
        aspect = self._declared.aspect_of(own[0]) if own else self._declared.aspect
        seen = (frame.width, frame.height, frame.rotation, aspect)
        if seen != self._seen:
            self._orientation = display_orientation(frame)
            self._window = self._declared.crop.window(frame.height, frame.width)
            self._fits.clear()
            self._seen = seen
        return aspect

    def _fitted(self, frame: VideoFrame, aspect: Fraction, size: tuple[int, int]) -> Fit:
        own = self._sizes.get(size)
        whole = self._whole and own is None
        fit = fit_frame(self.display(frame), own or size, whole=whole)
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
        if whole:
            self._sizes[size] = fit.height, fit.width
        return fit

    def _rgb(self, frame: VideoFrame) -> tuple[NDArray[Any], Transfer | None]:
        """Return the picture before it is resized, and the transfer function that maps HDR."""
        transfer = frame.color_trc
        if transfer in (Transfer.PQ, Transfer.HLG) and not frame.format.is_rgb:
            wide = self._reformatted(frame, "gbrp16le", EXACT).astype(np.float32)
            return wide, Transfer(transfer)
        if has_alpha(frame.format.name):
            rgba = self._reformatted(frame, "rgba", FAST).astype(np.uint16)
            pixels = ((rgba[..., :3] * rgba[..., 3:] + 127) // 255).astype(np.uint8)
        else:
            flags = EXACT if bits(frame.format.name) > 8 else FAST
            pixels = self._reformatted(frame, "rgb24", flags)
            if frame.format.name.startswith("gray") and frame.color_range == ColorRange.MPEG:
                pixels = _LIMITED_GREY[pixels]
        return (pixels.astype(np.float32) if self._float else pixels), None

    def _reformatted(self, frame: VideoFrame, target: str, flags: Interpolation) -> NDArray[Any]:
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
