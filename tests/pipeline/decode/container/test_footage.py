"""Which stream is decoded, and by which decoder."""

import io
from fractions import Fraction
from itertools import product
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.decode.clip_rule import ClipRule, DecodeLimits
from pipeline.decode.clips import clips
from pipeline.decode.container.footage import decoder
from pipeline.records import Span
from tests.pipeline.decode.synthetic import encode, fill, grey

STILL, FOOTAGE, SMALL = 240, 100, 40


def pictures(video: bytes, span: Span | None = None) -> list[NDArray[Any]]:
    rule = ClipRule(frames=1, height=32, width=32, fps=None, short="pad")
    found = clips(io.BytesIO(video), [rule], DecodeLimits(), lambda: None, span)
    return [clip.frames[0] for clip, _ in found if clip.frames is not None]


def levels(video: bytes, span: Span | None = None) -> list[int]:
    return [round(float(picture.mean())) for picture in pictures(video, span)]


Track = tuple[str, int, int, list[int], list[int]]
"""Codec, height, width, the level of each picture, and its time in units of 1/25 s."""


def tracks(container: str, *wanted: Track, options: dict[str, str] | None = None) -> bytes:
    """A file of several streams of gray pictures; none is marked as a still."""
    out = io.BytesIO()
    packets = []
    with av.open(out, "w", format=container, container_options=options or {}) as target:
        for codec, height, width, shades, times in wanted:
            stream = target.add_stream(codec, rate=25)
            stream.height, stream.width = height, width
            stream.pix_fmt = {"png": "gray", "mjpeg": "yuvj444p"}.get(codec, "yuv444p")
            stream.codec_context.color_range = 2
            stream.codec_context.time_base = Fraction(1, 25)
            for shade, time in zip(shades, times, strict=True):
                frame = av.VideoFrame(width, height, stream.pix_fmt)
                for plane, pixels in zip(frame.planes, grey(shade, height, width), strict=False):
                    fill(plane, pixels)
                frame.pts, frame.time_base, frame.color_range = time, Fraction(1, 25), 2
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            target.mux(packet)
    return out.getvalue()


def still(codec: str, time: int = 0) -> Track:
    return codec, 128, 128, [STILL], [time]


def moving(shade: int = FOOTAGE, side: int = 64, count: int = 10, every: int = 1) -> Track:
    return "libx264", side, side, [shade] * count, [every * n for n in range(count)]


@pytest.mark.parametrize(
    ("codec", "container"),
    [
        *product(("mjpeg", "libx264"), ("matroska", "mp4", "fragmented", "mov", "nut")),
        *product(("png",), ("mp4", "fragmented", "mov", "nut")),  # PyAV writes none to Matroska
    ],
)
def test_a_still_beside_the_footage_is_not_decoded(codec: str, container: str):
    fragments = {"movflags": "frag_keyframe+empty_moov"} if container == "fragmented" else None
    form = "mp4" if container == "fragmented" else container
    for order in ([still(codec), moving()], [moving(), still(codec)]):
        video = tracks(form, *order, options=fragments)
        assert levels(video) == pytest.approx([FOOTAGE] * 10, abs=2)
        assert len(levels(video, Span(start_s=0.2, end_s=0.32))) == 3


def test_the_largest_of_the_moving_pictures_is_decoded():
    for container in ("matroska", "mp4"):
        video = tracks(container, still("libx264"), moving(SMALL, 32), moving(), still("mjpeg", 3))
        assert levels(video) == pytest.approx([FOOTAGE] * 10, abs=2)


def test_pictures_that_rarely_change_are_footage():
    slides = moving(FOOTAGE, 128, count=2, every=99)
    video = tracks("matroska", moving(SMALL, 32, count=100), slides)
    assert levels(video) == pytest.approx([FOOTAGE] * 2, abs=2)


def test_a_file_of_stills_gives_the_largest():
    for container in ("matroska", "mp4"):
        small = ("mjpeg", 64, 64, [SMALL], [0])
        assert levels(tracks(container, small, still("mjpeg"))) == pytest.approx([STILL], abs=2)
        assert levels(tracks(container, still("mjpeg"))) == pytest.approx([STILL], abs=2)


def translucent(codec: str, container: str, **how: Any) -> bytes:
    """Ten pictures of gray 200, of which the right half has a fifth of the opacity."""
    alpha = np.full((32, 32), 255, np.uint8)
    alpha[:, 16:] = 51
    luma = np.full((32, 32), 188, np.uint8)
    planes = [luma, *[np.full((16, 16), 128, np.uint8)] * 2, alpha]
    return encode([planes] * 10, pix_fmt="yuva420p", codec=codec, container=container,
                  color_range=1, **how)  # fmt: skip


@pytest.mark.parametrize(
    ("codec", "container", "options"),
    [
        ("ffv1", "matroska", {}),  # the control: a codec whose own decoder has alpha
        ("libvpx", "webm", {"auto-alt-ref": "0", "crf": "4", "b": "2M"}),
        ("libvpx-vp9", "webm", {"lossless": "1"}),
        ("libvpx-vp9", "matroska", {"lossless": "1"}),
    ],
)
def test_alpha_lies_over_black_whatever_the_codec(
    codec: str, container: str, options: dict[str, str]
):
    video = translucent(codec, container, options=options)
    found = pictures(video)
    assert len(found) == 10
    for picture in found:
        assert picture[:, :14].mean() == pytest.approx(200, abs=3)
        assert picture[:, 18:].mean() == pytest.approx(40, abs=3)
    assert len(pictures(video, Span(start_s=0.2, end_s=0.32))) == 3


def test_a_video_without_alpha_keeps_the_faster_decoder():
    for pix_fmt, name in (("yuv420p", "vp9"), ("yuva420p", "libvpx-vp9")):
        planes = [np.full((32 >> n, 32 >> n), 100, np.uint8) for n in (0, 1, 1, 0)]
        video = encode([planes[: 4 if "a" in pix_fmt[3:] else 3]], pix_fmt=pix_fmt,
                       codec="libvpx-vp9", container="webm")  # fmt: skip
        with av.open(io.BytesIO(video)) as container:
            assert decoder(container.streams.video[0], DecodeLimits()).name == name


def test_a_title_in_another_encoding_costs_nothing():
    for old, new in ((b"VideoHandler", b"Vid\xe9oHandler"), (b"isomiso2", b"iso\xffiso2")):
        video = tracks("mp4", moving())
        assert old in video
        assert len(levels(video.replace(old, new))) == 10
