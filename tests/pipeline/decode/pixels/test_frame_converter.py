"""Colour, range, depth, turn and scale of single pictures, through the whole child-side path."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.decode.clip_assembly import AssembledClip
from pipeline.decode.clip_rule import ClipRule, DecodeLimits
from pipeline.decode.clips import clips as cut_clips
from pipeline.decode.pixels import frame_converter
from pipeline.decode.pixels.declared import Declared
from pipeline.decode.pixels.frame_converter import FrameConverter
from pipeline.decode.pixels.geometry import Orientation, fit_frame
from pipeline.decode.pixels.resize import resize
from pipeline.quarantine import QuarantineError
from tests.assets import GOLDENS, ROTATED, TEN_BITS, VIDTOK_EXAMPLE
from tests.pipeline.decode.synthetic import encode, grey

BT709, BT601, BT2020 = (1, 0.2126, 0.0722), (6, 0.299, 0.114), (9, 0.2627, 0.0593)
UNSTATED = (2, 0.299, 0.114)
COLOUR = (140, 140, 60)
PQ, HLG = 16, 18
LIMITED, FULL = 1, 2


def clips(video: bytes, limits: DecodeLimits | None = None, **changes: Any) -> list[AssembledClip]:
    how = {"frames": 1, "height": 32, "width": 32, "fps": None, "short": "pad"} | changes
    rule, limits = ClipRule(**how), limits or DecodeLimits()
    return [clip for clip, _ in cut_clips(io.BytesIO(video), [rule], limits, lambda: None)]


def first(video: bytes, **changes: Any) -> NDArray[Any]:
    frames = clips(video, **changes)[0].frames
    assert frames is not None
    return frames[0]


def rgb_of(
    yuv: tuple[float, float, float], kr: float, kb: float, color_range: int, bits: int = 8
) -> NDArray[Any]:
    """ITU-T H.273, equations for Y'CbCr, written out."""
    y, cb, cr = (v / 2 ** (bits - 8) for v in yuv)
    if color_range == FULL:
        y, cb, cr = y / 255, (cb - 128) / 255, (cr - 128) / 255
    else:
        y, cb, cr = (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    red, blue = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return 255 * np.clip([red, green, blue], 0, 1)


def flat(yuv: tuple[int, int, int], pix_fmt: str, **how: Any) -> bytes:
    dtype = np.uint16 if "10" in pix_fmt else np.uint8
    halved = 2 if "420" in pix_fmt else 1
    shapes = [(32, 32)] + [(32 // halved, 32 // halved)] * 2
    planes = [np.full(shape, v, dtype) for shape, v in zip(shapes, yuv, strict=True)]
    return encode([planes], pix_fmt=pix_fmt, **how)


@pytest.mark.parametrize("matrix", [BT709, BT601, BT2020, UNSTATED])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv420p", 8), ("yuv444p", 8), ("yuv420p10le", 10)])
def test_colour_follows_the_streams_own_matrix_range_and_depth(
    matrix: tuple[int, float, float], color_range: int, pix_fmt: str, bits: int
):
    yuv = tuple(v << (bits - 8) for v in COLOUR)
    video = flat(yuv, pix_fmt, colorspace=matrix[0], color_range=color_range)
    expected = rgb_of(yuv, *matrix[1:], color_range, bits)
    # swscale's table for 8-bit 4:2:0, which the reference has too, is up to two levels dark.
    slack = 2.1 if pix_fmt == "yuv420p" else 1.0
    assert np.abs(first(video) - expected).max() <= slack


def test_the_choice_of_matrix_would_show():
    """The tolerance above tells the matrices and ranges apart."""
    colours = [
        rgb_of(COLOUR, kr, kb, color_range)
        for _, kr, kb in (BT709, BT601, BT2020)
        for color_range in (LIMITED, FULL)
    ]
    for i, a in enumerate(colours):
        for b in colours[:i]:
            assert np.abs(a - b).max() > 4.2


@pytest.mark.parametrize(("color_range", "expected"), [(LIMITED, 121), (FULL, 120)])
def test_grey_is_stretched_if_its_range_is_limited(color_range: int, expected: int):
    video = encode([[np.full((32, 32), 120, np.uint8)]], pix_fmt="gray", color_range=color_range)
    assert np.unique(first(video)).tolist() == [expected]


def test_alpha_lies_over_black():
    bgra = np.zeros((32, 32, 4), np.uint8)
    bgra[..., :3] = 50, 100, 200
    bgra[:, :16, 3], bgra[:, 16:, 3] = 255, 51
    picture = first(encode([[bgra]], pix_fmt="bgra"))
    assert picture[0, 0].tolist() == [200, 100, 50]
    assert picture[0, 31].tolist() == [40, 20, 10]


@pytest.mark.parametrize("name", ["90x160_to_64x64", "101x77_to_48x48", "48x64_to_64x64"])
def test_resize_is_the_references(name: str):
    goldens = np.load(GOLDENS / "reference_resize.npz")
    source, expected = goldens[f"{name}.source"][0], goldens[f"{name}.q14"][0] / 16384
    height, width = expected.shape[:2]
    place = fit_frame(source.shape[:2], (height, width))
    exact = resize(source.astype(np.float32), place, Orientation())
    assert exact.dtype == np.float32
    assert np.abs(exact / 127.5 - 1 - expected).max() <= 0.5 / 16384 + 1e-6
    rounded = resize(source, place, Orientation())
    assert rounded.dtype == np.uint8
    assert np.abs(rounded - exact).max() <= 1


@pytest.mark.parametrize(("dtype", "levels"), [("float32", 0.01), ("uint8", 1)])
def test_a_real_video_gives_the_references_pixels(dtype: str, levels: float):
    golden = np.load(GOLDENS / "reference_vidtok_example_64.npz")["frames_0_16"]
    expected = (golden / 16384 + 1) * 127.5
    clip = clips(
        VIDTOK_EXAMPLE.path.read_bytes(), frames=17, height=64, width=64, fps=30.0, resize=dtype
    )[0]
    assert clip.frames is not None
    assert clip.frames.dtype == np.dtype(dtype)
    assert clip.frames.shape == (17, 64, 64, 3)
    assert np.abs(clip.frames - expected).max() <= levels


def test_a_turn_after_the_resize_is_the_turn_before_it():
    source = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8).astype(np.float32)
    for transpose in (False, True):
        for rows in (False, True):
            for columns in (False, True):
                orientation = Orientation(transpose=transpose, flip_rows=rows, flip_columns=columns)
                upright = source.swapaxes(0, 1) if transpose else source
                upright = upright[::-1] if rows else upright
                upright = np.ascontiguousarray(upright[:, ::-1] if columns else upright)
                place = fit_frame(upright.shape[:2], (31, 24))
                expected = resize(upright, place, Orientation())
                assert np.abs(resize(source, place, orientation) - expected).max() < 1e-3


def quadrants(height: int, width: int) -> NDArray[Any]:
    """Luma that tells the four corners apart: 40 80 / 120 160."""
    luma = np.empty((height, width), np.uint8)
    luma[: height // 2, : width // 2], luma[: height // 2, width // 2 :] = 40, 80
    luma[height // 2 :, : width // 2], luma[height // 2 :, width // 2 :] = 120, 160
    return luma


@pytest.mark.parametrize(
    ("degrees", "corners"),
    [(0, [40, 80, 120, 160]), (90, [80, 160, 40, 120]), (-90, [120, 40, 160, 80]),
     (180, [160, 120, 80, 40])],
)  # fmt: skip
def test_a_picture_is_turned_upright_with_its_pixels_squared_first(
    degrees: int, corners: list[int]
):
    grey_plane = np.full((48, 64), 128, np.uint8)
    video = encode(
        [[quadrants(48, 64), grey_plane, grey_plane]],
        pix_fmt="yuv444p",
        codec="libx264",
        container="mp4",
        color_range=FULL,
        sample_aspect=Fraction(3, 2),
        options={"qp": "1"},
        time_base=Fraction(1, 25),
        prepare=lambda stream: stream.set_display_rotation(degrees),
    )
    clip = clips(video)[0]
    assert clip.frames is not None
    shown = (96, 48) if abs(degrees) == 90 else (48, 96)
    assert (clip.fit.display_height, clip.fit.display_width) == shown
    seen = [int(clip.frames[0, y, x, 0]) for y in (4, 27) for x in (4, 27)]
    assert seen == pytest.approx(corners, abs=2)


def test_phone_videos_of_one_keyboard_agree_once_upright():
    """The three files were filmed in three positions; upright, their mean columns look alike."""
    for asset in ROTATED:
        clip = clips(asset.path.read_bytes(), height=64, width=64)[0]
        assert (clip.fit.display_height, clip.fit.display_width) == (asset.height, asset.width)


def test_wide_pixels_are_squared_in_the_one_resize():
    """A circle of wide pixels is a circle again."""
    y, x = np.mgrid[:96, :64]
    disc = (((y - 47.5) ** 2 + ((x - 31.5) * 1.5) ** 2) < 36**2) * np.uint8(200)
    flat_plane = np.full((96, 64), 128, np.uint8)
    video = encode(
        [[disc, flat_plane, flat_plane]],
        pix_fmt="yuv444p",
        codec="libx264",
        container="mp4",
        color_range=FULL,
        sample_aspect=Fraction(3, 2),
        options={"qp": "1"},
        time_base=Fraction(1, 25),
    )
    picture = first(video, height=96, width=96)[..., 0] > 100
    assert abs(int(picture.any(0).sum()) - int(picture.any(1).sum())) <= 1
    assert picture.any(0).sum() == pytest.approx(72, abs=2)


def test_ten_bits_keep_their_brightness():
    for asset in TEN_BITS:
        pixels = first(asset.path.read_bytes(), height=200, width=200)
        assert pixels.mean() == pytest.approx(121, abs=2)
        assert pixels.std() > 20


def test_a_picture_too_large_once_scaled_is_refused():
    sliver = [np.full((2, 4000), 100, np.uint8)] * 3
    with pytest.raises(QuarantineError, match=r"scaled as 64000x32") as caught:
        clips(encode([sliver], pix_fmt="yuv444p"), DecodeLimits(max_pixels=1_000_000))
    assert caught.value.reason == "unsupported"


SIZES = (96, 64), (40, 80), (96, 64)


def test_whole_pictures_keep_the_size_of_the_first():
    converter = FrameConverter("uint8", Declared(), 10_000, whole=True)
    frames = [av.VideoFrame(width, height, "rgb24") for width, height in SIZES]
    one, taller, again = (
        (converter.convert(frame, (32, 32)), converter.fit(frame, (32, 32))) for frame in frames
    )
    assert one[0].shape == again[0].shape == taller[0].shape == (32, 48, 3)
    assert one[1].crop == again[1].crop == (0, 0, 64, 96)
    assert taller[1].crop[2:] == pytest.approx((26.7, 40), abs=0.1)


def test_a_picture_that_is_picked_again_is_not_made_again(monkeypatch: pytest.MonkeyPatch):
    video = encode([grey(10), grey(20)], pix_fmt="yuv444p", color_range=FULL, rate=1)
    calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return resize(*arguments)

    monkeypatch.setattr(frame_converter, "resize", counted)
    assert len(clips(video, frames=4, fps=8)) == 4
    assert calls == 2
