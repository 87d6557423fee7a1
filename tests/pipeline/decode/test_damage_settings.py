"""The three values of `decode.damage`, each with what it refuses."""

import io
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from pipeline.decode.clip_rule import DecodeLimits
from pipeline.decode.container.video import open_video
from pipeline.quarantine import QuarantineError
from tests.assets import BIKES, VIDEOS
from tests.pipeline.decode.synthetic import counting, encode, remux


def level(frame: av.VideoFrame) -> int:
    return round(float(frame.to_ndarray(format="gray").mean()))


def bytes_of(frame: av.VideoFrame) -> bytes:
    return frame.to_ndarray().tobytes()


def outcome(
    video: bytes, of: Callable[[av.VideoFrame], Any] = level, **limits: Any
) -> tuple[list[Any], str]:
    levels: list[Any] = []
    try:
        with open_video(io.BytesIO(video), DecodeLimits(**limits)) as opened:
            levels.extend(of(shown.frame) for shown in opened.frames(lambda: None))
    except QuarantineError as error:
        return levels, error.reason
    return levels, "whole"


def begun_late(container: str, codec: str, **options: str) -> bytes:
    """Forty pictures with a key picture at 0, 10, 20, 30, without the first five."""
    options = {"g": "10", "bf": "0", "sc_threshold": "0", **options}
    out = io.BytesIO()
    whole = counting(40, codec=codec, options=options, prepare=yuv420p)
    with av.open(io.BytesIO(whole)) as source, av.open(out, "w", format=container) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.size and index >= 5:
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


def yuv420p(stream: Any) -> None:
    stream.codec_context.pix_fmt = (
        "yuv444p" if stream.codec_context.name == "libx264" else "yuv420p"
    )


@pytest.mark.parametrize("container", ["matroska", "mp4", "mpegts"])
def test_a_recording_that_begins_between_two_key_pictures_begins_at_the_second(container: str):
    video = begun_late(container, "libx264", qp="0")
    levels, end = outcome(video)
    assert (levels, end) == (list(range(10, 40)), "whole")
    assert outcome(video, damage="keep") == (levels, end)


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
def test_pictures_before_the_first_key_picture_are_not_shown_even_if_they_decode(codec: str):
    pictures = np.random.default_rng(0).integers(0, 256, (40, 32, 32), np.uint8)
    chroma = np.full((16, 16), 128, np.uint8)
    whole = encode(
        ((luma, chroma, chroma) for luma in pictures),
        pix_fmt="yuv420p",
        codec=codec,
        time_base=Fraction(1, 25),
        options={"g": "10", "sc_threshold": "1000000000"},
    )
    out = io.BytesIO()
    with av.open(io.BytesIO(whole)) as source, av.open(out, "w", format="matroska") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.size and index >= 5:
                packet.stream = stream
                target.mux(packet)
    late, end = outcome(out.getvalue())
    assert end == "whole"
    assert late == outcome(whole)[0][10:]


@pytest.mark.parametrize("name", ["zeroed_middle.mp4", "bitflips_hevc.mp4", "corrupted.mp4"])
def test_keep_takes_what_the_decoder_gives(name: str):
    video = (VIDEOS / "broken" / name).read_bytes()
    levels, reason = outcome(video)
    assert reason == "corrupt"
    assert outcome(video, damage="strict") == (levels, reason)
    kept, end = outcome(video, damage="keep")
    assert end == "whole"
    assert kept[: len(levels)] == levels
    assert len(kept) > len(levels) + 5


def test_keep_takes_a_file_without_its_end_and_nothing_that_is_no_video():
    assert outcome((VIDEOS / "broken" / "truncated.webm").read_bytes(), damage="keep")[1] == "whole"
    for name in ("text.mp4", "header_only.mp4", "audio_only.m4a"):
        broken = (VIDEOS / "broken" / name).read_bytes()
        assert outcome(broken, damage="keep") == outcome(broken)


def test_keep_does_not_lift_the_other_limits():
    wide = BIKES.path.read_bytes()
    assert outcome(wide, damage="keep", max_pixels=640 * 272 - 1)[1] == "unsupported"
    video = counting(3, pts=[0, 40, 80])
    assert outcome(video, damage="keep", max_gap_s=0.03)[1] == "corrupt"


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_of_a_hole_in_a_transport_stream_no_damaged_picture_is_kept(codec: str):
    """A hole of three packets. A whole picture may be lost; all that are kept are originals."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 64, 64), np.uint8)
    chroma = np.full((32, 32), 128, np.uint8)
    options = {"g": "10", "bf": "0", "x265-params": "log-level=none:keyint=10:scenecut=0"}
    options["sc_threshold"] = "0" if codec == "libx264" else "1000000000"
    if codec != "libx265":
        options.pop("x265-params")
    whole = remux(
        encode(
            ((luma, chroma, chroma) for luma in noise),
            pix_fmt="yuv420p",
            codec=codec,
            time_base=Fraction(1, 25),
            options=options,
        ),
        "mpegts",
    )
    right, end = outcome(whole, of=bytes_of)
    assert end == "whole"
    packets, refused, places = len(whole) // 188, 0, 0
    for place in range(packets // 4, packets - 20, packets // 31):
        cut = whole[: place * 188] + whole[(place + 3) * 188 :]
        kept, reason = outcome(cut, of=bytes_of)
        assert all(picture in right for picture in kept), place
        assert reason != "whole" or len(kept) >= len(right) - 1
        refused, places = refused + (reason == "corrupt"), places + 1
        everything, reason = outcome(cut, damage="keep", of=bytes_of)
        assert (reason, len(everything) >= len(kept)) == ("whole", True)
    assert refused > places * 0.8
