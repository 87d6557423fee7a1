"""What counts as damage, and what odd but whole files must not be accused of."""

import io
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from pipeline.decode.clip_rule import DecodeLimits
from pipeline.decode.container.video import SourceFile, open_video
from pipeline.decode.damage import cut_short, flat, in_log
from pipeline.quarantine import QuarantineError
from tests.assets import BIKES, HIKER
from tests.pipeline.decode.synthetic import counting, encode, grey, remux

SPEAKERS = ("h264", "mov,mp4,m4a,3gp,3g2,mj2")


def frames_of(video: bytes, **limits: Any) -> int:
    with open_video(io.BytesIO(video), DecodeLimits(**limits)) as opened:
        return sum(1 for _ in opened.frames(lambda: None))


def outcome(video: bytes, **limits: Any) -> QuarantineError:
    with pytest.raises(QuarantineError) as caught:
        frames_of(video, **limits)
    return caught.value


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ((16, "h264", "error while decoding MB 22 10\n"), "corrupt"),
        ((8, "h264", "out of picture buffers"), "corrupt"),
        ((16, "mov,mp4,m4a,3gp,3g2,mj2", "stream 0, offset 0x1: partial file"), "truncated"),
        ((16, "hevc", "get_buffer() failed"), "decode_memory"),
        ((16, "", "Picture size 9x9 exceeds specified max pixel count 80"), "unsupported"),
        ((24, "h264", "a warning"), None),
        ((16, "swscaler", "deprecated pixel format"), None),
        ((16, "h264", "SEI type 4 size 40 truncated at 32"), None),
        ((16, "h264", "mmco: unref short failure"), None),
    ],
)
def test_errors_of_decoder_and_demuxer_are_damage(entry: tuple[int, str, str], reason: str | None):
    found = in_log([entry], SPEAKERS)
    assert (found.reason if found else None) == reason
    if found:
        assert found.detail.endswith(entry[2].strip())


def test_a_cut_that_is_found_at_opening_counts_and_other_messages_do_not():
    ended = (16, "matroska,webm", "File ended prematurely\n")
    found = cut_short([(16, "vp8", "no frame!"), ended], "matroska,webm")
    assert found is not None
    assert (found.reason, found.detail) == (
        "truncated",
        "matroska,webm: File ended prematurely",
    )
    assert cut_short([ended], "vp8") is None
    assert cut_short([(16, "matroska,webm", "Unknown entry 0x5")], "matroska,webm") is None


def test_details_are_flat():
    assert flat(" a\n  b\tc ") == "a b c"
    assert len(flat("x" * 1000)) == 300


@pytest.mark.parametrize("container", ["matroska", "avi", "flv", "mpegts", "mp4"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_cut_short_is_found_out_in_every_container(container: str, share: float):
    codec = {"flv": "flv1", "mpegts": "mpeg2video"}.get(container, "mpeg4")
    noise = np.random.default_rng(0).integers(0, 256, (75, 96, 96), np.uint8)
    chroma = np.full((48, 48), 128, np.uint8)
    video = encode(
        ((luma, chroma, chroma) for luma in noise),
        pix_fmt="yuv420p",
        codec=codec,
        container=container,
        time_base=Fraction(1, 25),
    )
    if container == "mp4":
        video = remux(video, "mp4", movflags="frag_keyframe+empty_moov")
    assert frames_of(video) == 75
    cut = outcome(video[: int(len(video) * share)])
    assert cut.reason in ("truncated", "corrupt")
    assert cut.detail


def test_a_broadcast_may_be_joined_in_the_middle():
    """A recording of a transport stream begins anywhere; what is lost was never in it."""
    noise = np.random.default_rng(0).integers(0, 256, (50, 64, 64), np.uint8)
    chroma = np.full((32, 32), 128, np.uint8)
    stream = encode(
        ((luma, chroma, chroma) for luma in noise),
        pix_fmt="yuv420p",
        codec="libx264",
        container="mpegts",
        time_base=Fraction(1, 25),
        options={"g": "10", "qp": "20"},
    )
    packets = len(stream) // 188
    joined = stream[packets // 3 * 188 :]
    assert 20 <= frames_of(joined) <= 40


def test_a_hole_in_a_broadcast_is_damage():
    noise = np.random.default_rng(0).integers(0, 256, (50, 64, 64), np.uint8)
    chroma = np.full((32, 32), 128, np.uint8)
    stream = encode(
        ((luma, chroma, chroma) for luma in noise),
        pix_fmt="yuv420p",
        codec="mpeg2video",
        container="mpegts",
        time_base=Fraction(1, 25),
        options={"g": "10"},
    )
    middle = len(stream) // 188 // 2 * 188
    assert outcome(stream[:middle] + stream[middle + 40 * 188 :]).reason == "corrupt"


def test_a_jump_of_the_clock_is_refused_and_a_long_pause_is_not():
    pictures = [grey(1), grey(2), grey(3)]
    paused = encode(pictures, pix_fmt="yuv444p", pts=[0, 40, 50_000])
    assert frames_of(paused) == 3
    jumped = encode(pictures, pix_fmt="yuv444p", pts=[0, 40, 200_000])
    assert frames_of(jumped) == 3
    refused = outcome(jumped, max_gap_s=199)
    assert refused.reason == "corrupt"
    assert "decode.max_gap_s = 199" in refused.detail


def test_the_size_is_checked_before_anything_is_decoded():
    refused = outcome(BIKES.path.read_bytes(), max_pixels=640 * 272 - 1)
    assert refused.reason == "unsupported"
    assert "640x272" in refused.detail
    assert frames_of(BIKES.path.read_bytes(), max_pixels=640 * 272) == 250


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {}\n",
        "ffconcat version 1.0\nfile 'file:{}'\n",
    ],
)
def test_a_file_cannot_make_the_decoder_open_another(text: str):
    found = outcome(text.format(HIKER.path).encode())
    assert found.reason == "not_a_video"


def test_only_reading_is_possible_on_the_file():
    assert not hasattr(SourceFile(io.BytesIO(b"")), "write")


def test_the_largest_footage_is_chosen_not_the_first():
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as target:
        streams = []
        for size in (32, 64):
            stream = target.add_stream("ffv1", rate=25)
            stream.width = stream.height = size
            stream.pix_fmt = "yuv444p"
            streams.append(stream)
        for index in range(3):
            for stream in streams:
                frame = av.VideoFrame(stream.width, stream.height, "yuv444p")
                for plane in frame.planes:
                    plane.update(bytes(plane.buffer_size))
                frame.pts = index
                target.mux(stream.encode(frame))
        for stream in streams:
            target.mux(stream.encode())
    with open_video(io.BytesIO(out.getvalue()), DecodeLimits()) as opened:
        assert {s.frame.width for s in opened.frames(lambda: None)} == {64}


def test_a_rate_that_nobody_can_mean_is_not_believed():
    with open_video(io.BytesIO(counting(3, rate=25)), DecodeLimits()) as opened:
        assert opened.nominal_s == Fraction(1, 25)
        assert opened.source_fps == 25
