"""From an image to a clip of one frame, by the same rule as the frames of a video.

Pillow reads it in the decoder process. It is turned as EXIF says, alpha is blended over black, and
more than eight bits are reduced to eight. Colour profiles are ignored.
"""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.decode.buckets import for_image
from pipeline.decode.clip_assembly import AssembledClip
from pipeline.decode.clip_rule import ClipRule, DecodeLimits
from pipeline.decode.damage import DecodeFault
from pipeline.decode.pixels.geometry import Orientation, fit_frame
from pipeline.decode.pixels.resize import resize
from pipeline.decode.shots import shot_numbers
from pipeline.errors import one_line

FORMATS = ("AVIF", "BMP", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that are read; Pillow supports more, which corpora do not hold."""


Image.init()  # otherwise a format that is not loaded yet is a KeyError


def image_clips(
    file: BinaryIO, rules: list[ClipRule], limits: DecodeLimits
) -> Iterator[AssembledClip]:
    """Yield the clips of an image: one in the one-frame bucket in which it loses least, or several.

    Args:
        file: readable and seekable, at its beginning.
        rules: of all buckets; at least one has one frame.
        limits: `max_pixels` is checked before anything is decoded.

    Raises:
        DecodeFault: it is not an image, is broken, or is too large.
    """
    upright = _upright(file, limits)
    if rules[0].resize == "float32":
        upright = upright.astype(np.float32)
    display = upright.shape[0], upright.shape[1]
    for index, rule in enumerate(for_image(rules, display)):
        fit = fit_frame(display, (rule.height, rule.width), whole=rule.fit == "whole")
        if fit.resized_height * fit.resized_width > limits.max_pixels:
            raise _too_large("scaled", fit.resized_width, fit.resized_height, limits)
        yield AssembledClip(
            index=index,
            start_s=Fraction(0),
            end_s=Fraction(0),
            own_frames=1,
            padded_frames=0,
            fit=fit,
            times_s=(Fraction(0),),
            frames=np.ascontiguousarray(resize(upright, fit, Orientation())[np.newaxis]),
            numbers={
                **({} if rule.shots is None else shot_numbers(0, Fraction(0), Fraction(0))),
                **({"fps": None} if rule.names_fps else {}),
            },
        )


def _upright(file: BinaryIO, limits: DecodeLimits) -> NDArray[Any]:
    """Return the picture as displayed, `[H, W, 3]` uint8."""
    Image.MAX_IMAGE_PIXELS = None  # the limit below replaces it
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > limits.max_pixels:
                raise _too_large("coded", image.width, image.height, limits)
            turned = ImageOps.exif_transpose(image)
            return np.array(_rgb(turned))
    except UnidentifiedImageError as error:
        raise DecodeFault("not_a_video", "no image that is known here") from error
    except MemoryError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        reason = "truncated" if "truncated" in str(error) else "corrupt"
        raise DecodeFault(reason, one_line(error)) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow clips at 255 instead of scaling.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise DecodeFault("unsupported", f"an image of mode {image.mode}")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba).convert("RGB")
    return image.convert("RGB")


def _too_large(what: str, width: int, height: int, limits: DecodeLimits) -> DecodeFault:
    detail = f"an image {what} as {width}x{height}, more than decode.max_pixels ="
    return DecodeFault("unsupported", f"{detail} {limits.max_pixels}")
