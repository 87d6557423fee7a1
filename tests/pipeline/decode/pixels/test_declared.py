"""What the container and the coded pictures say of shape, crop and colour: which of them counts."""

import io
import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.decode.clip_rule import ClipRule, DecodeLimits
from pipeline.decode.clips import clips
from pipeline.decode.pixels.declared import Crop, states_aspect
from pipeline.decode.pixels.geometry import Fit
from tests.assets import DATA
from tests.pipeline.decode.mp4_boxes import clap, colr, pasp, shown_as, with_boxes
from tests.pipeline.decode.synthetic import encode

FRAME = Fraction(1, 25)
BT601, BT709, BT2020 = 5, 1, 9
LIMITED, FULL = 1, 2
BLACK_LEVEL = 16


def pictures(video: bytes, height: int = 32, width: int = 32) -> list[tuple[NDArray[Any], Fit]]:
    """Return each picture of a video and its place in the source."""
    rule = ClipRule(frames=1, height=height, width=width, fps=None, short="pad")
    found = clips(io.BytesIO(video), [rule], DecodeLimits(), lambda: None)
    return [(clip.frames[0], clip.fit) for clip, _ in found if clip.frames is not None]


def displayed(video: bytes) -> list[tuple[int, int]]:
    return [(fit.display_height, fit.display_width) for _, fit in pictures(video)]


def ramp(height: int = 64, width: int = 64, chroma: int = 128) -> list[NDArray[Any]]:
    """Planes of yuv420p whose column n has the luma 16 + 2n."""
    luma = np.broadcast_to(BLACK_LEVEL + 2 * np.arange(width), (height, width)).astype(np.uint8)
    return [luma, *[np.full((height // 2, width // 2), chroma, np.uint8)] * 2]


def made(codec: str, container: str, count: int = 1, **how: Any) -> bytes:
    height, width = how.pop("height", 64), how.pop("width", 64)
    how = {"pix_fmt": "yuv420p", "time_base": FRAME} | how
    return encode([ramp(height, width)] * count, codec=codec, container=container, **how)


def remuxed(container: str, *videos: bytes) -> bytes:
    """Copy the packets, one video after the other.

    The container of the copy says what that of the first video says.
    """
    out, after = io.BytesIO(), 0
    with av.open(out, "w", format=container) as target:
        stream = None
        for video in videos:
            with av.open(io.BytesIO(video)) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                packets = [packet for packet in source.demux(video=0) if packet.size]
            for packet in packets:
                packet.stream, packet.pts, packet.dts = (
                    stream,
                    packet.pts + after,
                    packet.dts + after,
                )
                target.mux(packet)
            after += 90_000
    return out.getvalue()


# Shape of a pixel


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("mpeg2video", {"bf": "2", "g": "6"}),
        ("libx264", {"bf": "2", "qp": "4"}),
        ("libx265", {"x265-params": "log-level=none:bframes=2"}),
    ],
)
def test_each_picture_has_the_pixel_shape_of_its_part(codec: str, options: dict[str, str]):
    # MPEG-2 states the shape of the whole picture: 4:3 of a picture of 64 x 64.
    aspects = {"mpeg2video": [(1, 1), (4, 3), (16, 9)]}.get(codec, [(1, 1), (2, 1), (1, 2)])
    parts = [
        made(codec, "mpegts", 8, sample_aspect=Fraction(*aspect), options=options)
        for aspect in aspects
    ]
    widths = [round(64 * Fraction(*aspect)) for aspect in aspects]
    assert displayed(remuxed("mpegts", *parts)) == [
        (64, width) for width in widths for _ in range(8)
    ]


def test_a_pixel_shape_that_changes_shows_in_the_pixels():
    options = {"bf": "2", "qmax": "2"}
    parts = [
        made("mpeg2video", "mpegts", 8, sample_aspect=aspect, options=options)
        for aspect in (Fraction(1), Fraction(16, 9))
    ]
    left = [picture[16, 0, 0] for picture, _ in pictures(remuxed("mpegts", *parts), 64, 64)]
    assert left[:8] == pytest.approx([0] * 8, abs=8)
    # Of the width 7/16 are cropped: the first column is number 14, 2 * 14 above black.
    assert left[8:] == pytest.approx([28 * 255 / 219] * 8, abs=8)


def test_the_containers_pixel_shape_counts_before_the_pictures():
    video = made("libx264", "mp4", 2, sample_aspect=Fraction(2), options={"qp": "4"})
    assert displayed(video) == [(64, 128)] * 2
    assert displayed(with_boxes(video)) == [(64, 128)] * 2
    assert displayed(with_boxes(video, pasp(3, 2))) == [(64, 96)] * 2
    assert displayed(with_boxes(made("libvpx-vp9", "mp4", 2), pasp(3, 2))) == [(64, 96)] * 2


def test_a_container_that_rounds_the_first_pixel_shape_does_not_count_for_the_second():
    parts = [
        made("mpeg2video", "mpegts", 8, sample_aspect=Fraction(*aspect), options={"bf": "2"})
        for aspect in ((16, 9), (4, 3))
    ]
    whole = with_boxes(remuxed("mp4", *parts))
    assert displayed(shown_as(whole, 64, 113)) == [(64, 113)] * 8 + [(64, 85)] * 8
    assert displayed(shown_as(whole, 64, 96)) == [(64, 96)] * 16


def test_each_picture_has_its_own_size():
    video = (DATA / "field" / "size_changes.webm").read_bytes()
    sizes = displayed(video)
    assert sizes == [(96, 128)] * 50 + [(48, 64)] * 50 + [(192, 256)] * 50
    assert [number(picture) for picture, _ in pictures(video, 96, 128)] == list(range(150))


def number(picture: NDArray[Any]) -> int:
    """Read the number in a picture of 96 x 128: twelve blocks, white or black, least bit first."""
    blocks = picture.mean(-1).reshape(6, 16, 8, 16).mean((1, 3))[2:4, 1:7].ravel()
    assert not ((blocks > 70) & (blocks < 185)).any()
    return int(sum(1 << bit for bit, block in enumerate(blocks) if block > 128))


# Crop


@pytest.mark.parametrize("name", ["crop.mp4", "crop.mkv"])
def test_what_the_container_crops_is_not_shown(name: str):
    found = pictures((DATA / "field" / name).read_bytes(), 96, 128)
    assert {(fit.display_height, fit.display_width) for _, fit in found} == {(96, 128)}
    for picture, fit in found:
        assert fit.crop == (0, 0, 96, 128)
        assert (picture[..., 0].astype(int) - picture[..., 1]).max() < 40  # no red bar
    assert [number(picture) for picture, _ in found] == list(range(50))


@pytest.mark.parametrize("container", ["mp4", "matroska", "mov"])
@pytest.mark.parametrize("degrees", [0, 90])
def test_each_side_is_cropped_on_its_own_before_the_picture_is_turned(container: str, degrees: int):
    whole = made("libx264", "mp4", options={"qp": "0"}, height=80,
                 prepare=lambda stream: stream.set_display_rotation(degrees))  # fmt: skip
    # 64 columns: 20 are cropped on the left, 12 on the right. 80 rows: 12 above, 4 below.
    video = remuxed(container, with_boxes(whole, clap(64, 32, down=4, right=4)))
    upright = (64, 32) if degrees == 0 else (32, 64)
    ((picture, fit),) = pictures(video, *upright)
    assert (fit.display_height, fit.display_width) == upright
    line = picture[10, :, 0] if degrees == 0 else picture[::-1, 10, 0]
    expected = (2 * np.arange(20, 52) * 255 / 219).tolist()
    assert line.tolist() == pytest.approx(expected, abs=3)


@pytest.mark.parametrize(
    ("boxes", "shown", "width"),
    [
        ([clap(48, 32)], (64, 64), 32),  # the track header knows nothing of the crop
        ([clap(48, 32)], (48, 32), 32),  # the track header gives the size of the cropped picture
        ([clap(48, 32)], (48, 64), 64),
        ([clap(48, 32), pasp(4, 3)], (48, 43), 43),
        ([clap(48, 32), pasp(1, 1)], (48, 32), 32),
        ([clap(48, 33)], (48, 33), 33),
        ([clap(48, 64), pasp(4, 3)], (48, 85), 85),
        ([clap(48, 36), pasp(4, 3)], (64, 64), 48),
    ],
)
def test_the_pixel_shape_of_a_cropped_picture(
    boxes: list[bytes], shown: tuple[int, int], width: int
):
    video = made("libx264", "mp4", options={"qp": "4"})
    assert displayed(shown_as(with_boxes(video, *boxes), *shown)) == [(48, width)]


@pytest.mark.parametrize("box", [clap(65, 64), clap(0, 0), clap(-8, 8), clap(32, 32, down=400)])
def test_a_crop_that_is_impossible_is_ignored(box: bytes):
    assert displayed(with_boxes(made("libx264", "mp4", options={"qp": "4"}), box)) == [(64, 64)]


def test_a_crop_leaves_something_of_every_picture():
    crop = Crop(left=2, right=4, top=30, bottom=10)
    assert crop.window(96, 128) == (30, 2, 56, 122)
    assert crop.window(40, 128) == (0, 0, 40, 128)
    assert crop.window(96, 6) == (0, 0, 96, 6)


def test_a_title_that_looks_like_a_crop_is_none():
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as target:
        stream = target.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        crop = "Frame Cropping: 8/8/8/8"
        stream.metadata.update({crop: "1", "title": f"x\n      {crop}\n", "a\xff": "\xff"})
        target.metadata["comment"] = f"\n      {crop}\n"
        for packets in (stream.encode(av.VideoFrame(64, 64, "yuv420p")), stream.encode()):
            target.mux(packets)
    assert displayed(out.getvalue()) == [(64, 64)]


@pytest.mark.parametrize(
    ("header", "states"),
    [
        (struct.pack(">I4s", 20, b"moov") + b"....pasp....", True),
        (struct.pack(">I4s", 0, b"moov") + b"....pasp....", True),
        (struct.pack(">I4sQ", 1, b"moov", 28) + b"....pasp....", True),
        (struct.pack(">I4s", 20, b"moov") + b"............pasp", False),
        (struct.pack(">I4s", 20, b"free") + b"....pasp....", False),
        (struct.pack(">I4s", 0, b"free") + b"....pasp....", False),
        (struct.pack(">I4s", 3, b"free") + b"............", False),
        (struct.pack(">I4sQ", 1, b"free", 0) + b"............", False),
        (struct.pack(">I4sQ", 1, b"free", (1 << 64) - 1), False),
        (b"", False),
    ],
)
def test_the_search_for_a_pixel_shape_ends_and_moves_nothing(header: bytes, states: bool):
    file = io.BytesIO(struct.pack(">I4sQ", 16, b"ftyp", 0) + header)
    file.seek(5)
    assert states_aspect(file) == states
    assert file.tell() == 5


# Colour


COLOUR = (120, 90, 170)


def flat(codec: str, container: str, stated: tuple[int, int] | None) -> bytes:
    """A flat picture of COLOUR; `stated` is the matrix and range that the coded stream states."""
    planes = [np.full((64 >> (n > 0),) * 2, v, np.uint8) for n, v in enumerate(COLOUR)]
    matrix, color_range = stated or (2, 0)
    x265 = "log-level=none:lossless=1"
    if stated:
        name = {BT601: "bt470bg", BT709: "bt709", BT2020: "bt2020nc"}[matrix]
        x265 += f":colormatrix={name}:range={'full' if color_range == FULL else 'limited'}"
    lossless = {
        "libx264": {"qp": "0"},
        "libx265": {"x265-params": x265},
        "libvpx-vp9": {"lossless": "1"},
    }
    return encode(
        [planes] * (12 if container == "mpegts" else 3),
        pix_fmt="yuv420p",
        codec=codec,
        container=container,
        time_base=FRAME,
        colorspace=matrix,
        color_range=color_range,
        options=lossless[codec],
    )


def rgb(matrix: int, full: bool) -> NDArray[Any]:
    kr, kb = {BT601: (0.299, 0.114), BT709: (0.2126, 0.0722), BT2020: (0.2627, 0.0593)}[matrix]
    y, cb, cr = COLOUR
    luma, blue, red = (y / 255, (cb - 128) / 255, (cr - 128) / 255) if full else (
        (y - 16) / 219, (cb - 128) / 224, (cr - 128) / 224
    )  # fmt: skip
    red, blue = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return 255 * np.clip([red, green, blue], 0, 1)


def seen(video: bytes) -> list[NDArray[Any]]:
    return [picture[16, 16].astype(float) for picture, _ in pictures(video)]


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize(("matrix", "full"), [(BT601, True), (BT709, False), (BT2020, False)])
@pytest.mark.parametrize(
    ("codec", "stated"),
    [
        ("libx264", None),
        ("libx264", (BT601, FULL)),
        ("libx264", (BT709, LIMITED)),
        ("libx265", None),
        ("libx265", (BT601, FULL)),
        ("libx265", (BT709, LIMITED)),
        ("libvpx-vp9", None),
        ("libvpx-vp9", (BT601, LIMITED)),
    ],
)
def test_colour_is_that_of_the_container_whatever_the_stream_states(
    codec: str, stated: tuple[int, int] | None, full: bool, matrix: int, container: str
):
    boxed = with_boxes(flat(codec, "mp4", stated), colr(matrix, full))
    video = remuxed(container, boxed) if container != "mp4" else boxed
    assert np.abs(seen(video)[0] - rgb(matrix, full)).max() <= 2.1


def test_without_a_word_of_the_container_colour_is_that_of_each_picture():
    parts = [flat("libx264", "mpegts", (matrix, LIMITED)) for matrix in (BT601, BT709)]
    first, *_, last = seen(remuxed("mpegts", *parts))
    assert np.abs(first - rgb(BT601, False)).max() <= 2.1
    assert np.abs(last - rgb(BT709, False)).max() <= 2.1
    silent = with_boxes(flat("libx265", "mp4", (BT709, FULL)))
    assert np.abs(seen(silent)[0] - rgb(BT709, True)).max() <= 2.1


def test_a_matrix_that_a_picture_cannot_have_is_ignored():
    video = with_boxes(flat("libx265", "mp4", (BT709, LIMITED)), colr(0, False))
    assert np.abs(seen(video)[0] - rgb(BT709, False)).max() <= 2.1


def test_prores_takes_the_containers_matrix():
    planes = [np.full((64, 64 >> (n > 0)), v << 2, np.uint16) for n, v in enumerate(COLOUR)]
    video = encode([planes], pix_fmt="yuv422p10le", codec="prores_ks", container="mov",
                   time_base=FRAME, colorspace=BT601)  # fmt: skip
    assert np.abs(seen(video)[0] - rgb(BT601, False)).max() <= 2.1
    boxed = with_boxes(video, colr(BT709, False))
    assert np.abs(seen(boxed)[0] - rgb(BT709, False)).max() <= 2.1


def test_hdr_that_the_container_alone_names_is_mapped():
    pq, hlg = 16, 18
    video = flat("libx265", "mp4", None)
    standard, *mapped = (
        seen(with_boxes(video, colr(BT2020, False, transfer, 9)))[0] for transfer in (1, pq, hlg)
    )
    for transfer, colour in zip((pq, hlg), mapped, strict=True):
        assert np.abs(colour - standard).max() > 8, transfer
    stated = flat("libx265", "mp4", (BT2020, LIMITED))
    assert np.abs(seen(with_boxes(stated, colr(BT2020, False, pq, 9)))[0] - mapped[0]).max() < 1
