"""Images become clips of one frame, by the decoder's child like videos."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.decode import ClipRule, DecodeLimits, Decoder, clip_rules
from pipeline.quarantine import QuarantineError
from pipeline.records import Clip, Sample
from tests.assets import HIKER

RULES = clip_rules(
    {
        "fps": 8.0,
        "short": "pad",
        "resize": "uint8",
        "buckets": [
            {"frames": 5, "height": 32, "width": 32},
            {"frames": 1, "height": 32, "width": 32},
            {"frames": 1, "height": 24, "width": 48},
        ],
    }
)


@pytest.fixture(scope="module")
def images() -> Iterator[Decoder]:
    with Decoder(RULES, DecodeLimits(max_pixels=1_000_000)) as decoder:
        yield decoder


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def blank(width: int, height: int) -> bytes:
    return encoded(Image.new("1", (width, height)), "PNG")


def decode(decoder: Decoder, data: bytes) -> tuple[Clip, NDArray[Any]]:
    sample = Sample(key="k", video=data, video_name="k", is_image=True, caption="about")
    [(clip, frames)] = decoder.decode(sample, "u")
    assert frames is not None
    return clip, frames


def corners(height: int = 40, width: int = 80) -> Image.Image:
    """Red, green, blue and white quarters, from the upper left by rows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    half, middle = height // 2, width // 2
    pixels[:half, :middle, 0] = pixels[:half, middle:, 1] = pixels[half:, :middle, 2] = 255
    pixels[half:, middle:] = 255
    return Image.fromarray(pixels)


def quarters(frame: NDArray[Any]) -> list[list[int]]:
    """Return the colours of the four corners, rounded to 0 and 255."""
    return [list(np.rint(frame[y, x] / 255).astype(int)) for y in (0, -1) for x in (0, -1)]


UPRIGHT = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF"])
def test_every_format_is_fitted_to_its_bucket(images: Decoder, form: str) -> None:
    clip, frames = decode(images, encoded(corners(), form))
    assert frames.shape == (1, 24, 48, 3)
    assert quarters(frames[0]) == UPRIGHT
    assert (clip.clip_index, clip.start_s, clip.end_s, clip.source_fps) == (0, 0, 0, 0)
    assert (clip.source_height, clip.source_width, clip.caption) == (40, 80, "about")
    assert clip.crop == (0, 0, 40, 80)
    clip, frames = decode(images, encoded(corners(60, 80), form))
    assert frames.shape == (1, 32, 32, 3)
    assert clip.crop[1] > 0


def test_the_pixels_are_those_of_a_video_frame_resized(images: Decoder) -> None:
    """A picture of the bucket's own size comes through as it is."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    _, frames = decode(images, encoded(Image.fromarray(noise), "PNG"))
    np.testing.assert_array_equal(frames[0], noise)


def test_exif_turns(images: Decoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    turned = corners().transpose(Image.Transpose.ROTATE_90)
    clip, frames = decode(images, encoded(turned, "JPEG", exif=exif, quality=95))
    assert (clip.source_height, clip.source_width) == (40, 80)
    assert quarters(frames[0]) == UPRIGHT


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "I;16"])
def test_other_modes(images: Decoder, mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((32, 32), 200 * 257, np.uint16))
    else:
        picture = Image.new("RGB", (32, 32), (200, 200, 200))
        picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    _, frames = decode(images, encoded(picture, "TIFF" if mode == "CMYK" else "PNG"))
    level = 255 if mode == "1" else 200
    assert np.abs(np.median(frames[0], axis=(0, 1)) - level).max() <= 1


def test_alpha_lies_over_black(images: Decoder) -> None:
    picture = Image.new("RGBA", (32, 32), (200, 100, 50, 128))
    _, frames = decode(images, encoded(picture, "PNG"))
    assert np.abs(frames[0, 5, 5].astype(int) - [100, 50, 25]).max() <= 1


def test_float_keeps_fractions() -> None:
    rule = ClipRule(frames=1, height=16, width=16, fps=8, short="pad", resize="float32")
    with Decoder(rule) as decoder:
        _, frames = decode(decoder, encoded(corners(30, 30), "PNG"))
    assert frames.dtype == np.float32
    assert (frames != frames.round()).any()


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (lambda: b"no image", "not_a_video", "no image that is known here"),
        (lambda: b"", "not_a_video", "no image"),
        (HIKER.path.read_bytes, "not_a_video", "no image"),
        (lambda: encoded(corners(), "GIF"), "not_a_video", "no image"),
        (lambda: encoded(corners(), "JPEG")[:-300], "truncated", "truncated"),
        (lambda: encoded(corners(), "PNG")[:60], "truncated", "truncated"),
        (lambda: blank(30_000, 30_000), "unsupported", "coded as 30000x30000"),
        (lambda: blank(900_000, 1), "unsupported", "scaled as"),
    ],
    ids=["text", "empty", "video", "gif", "jpeg cut", "png cut", "bomb", "long"],
)
def test_what_is_no_picture_is_quarantined(
    images: Decoder, data: Callable[[], bytes], reason: str, says: str
) -> None:
    with pytest.raises(QuarantineError, match=says) as caught:
        decode(images, data())
    assert (caught.value.stage, caught.value.reason) == ("decode", reason)
    assert decode(images, encoded(corners(), "PNG"))[1].shape == (1, 24, 48, 3)


def test_a_video_gets_no_bucket_of_one_frame(images: Decoder) -> None:
    sample = Sample(key="k", video=str(HIKER.path), video_name="k.mp4")
    shapes = {f.shape for _, f in images.decode(sample, "u") if f is not None}
    assert shapes == {(5, 32, 32, 3)}
