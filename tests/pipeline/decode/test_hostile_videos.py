"""Videos made to harm: that point elsewhere, and that declare what no memory holds."""

import io
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pipeline.decode import ClipRule, DecodeLimits, Decoder
from pipeline.quarantine import QuarantineError
from pipeline.records import Sample
from tests.assets import HIKER

RULE = ClipRule(frames=5, height=32, width=40, fps=8.0, short="pad")
LIMITS = DecodeLimits(timeout_s=10, memory_mb=256)
GOOD = HIKER.path.read_bytes()


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(RULE, LIMITS) as decoder:
        yield decoder


def outcome(decoder: Decoder, video: bytes) -> str:
    """Return why a video is refused, or `clips`."""
    try:
        list(decoder.decode(Sample(key="k", video=video, video_name="v.mp4"), "u"))
    except QuarantineError as error:
        return error.reason
    return "clips"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[str]]]:
    """A server that anyone may ask, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(GOOD)

        def log_message(self, *args: object) -> None: ...

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", asked
    httpd.shutdown()
    httpd.server_close()
    thread.join()


LISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    "hls key": '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{0}"\n'
    "#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
    ' mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "concat": "ffconcat version 1.0\nfile {}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{}\n"
    "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "smil": "<smil><body><video src='{}'/></body></smil>",
    "asx": "<asx version='3.0'><entry><ref href='{}'/></entry></asx>",
    "realmedia": "rtsp\n{}\n",
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("scheme", ["http", "file", "path"])
def test_no_list_of_other_files_is_followed(
    decoder: Decoder, server: tuple[str, list[str]], name: str, scheme: str
) -> None:
    url, asked = server
    target = {"http": f"{url}/a.mp4", "file": f"file://{HIKER.path}", "path": str(HIKER.path)}
    assert outcome(decoder, LISTS[name].format(target[scheme]).encode()) == "not_a_video"
    assert asked == []


@pytest.mark.parametrize("kind", [b"url ", b"alis"])
def test_a_movie_whose_data_lies_elsewhere_is_not_followed(
    decoder: Decoder, server: tuple[str, list[str]], kind: bytes
) -> None:
    """A QuickTime data reference: flags 0 say that the samples are in another file."""
    url, asked = server
    for target in (f"{url}/a.mp4", str(HIKER.path)):
        entry = kind + bytes(4) + target.encode() + b"\0"
        entry = struct.pack(">I", len(entry) + 4) + entry
        assert outcome(decoder, _with_reference(entry)) != "clips"
    assert asked == []


def _with_reference(entry: bytes) -> bytes:
    """Return the good video without its pictures, its data reference replaced."""
    at = GOOD.index(b"dref")
    (size,) = struct.unpack(">I", GOOD[at - 4 : at])
    dref = struct.pack(">I", 16 + len(entry)) + b"dref" + bytes(4) + struct.pack(">I", 1) + entry
    grown = len(dref) - size
    data = bytearray(GOOD[: at - 4] + dref + GOOD[at - 4 + size :])
    for parent in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        where = GOOD.rindex(parent, 0, at)
        (old,) = struct.unpack(">I", GOOD[where - 4 : where])
        data[where - 4 : where] = struct.pack(">I", old + grown)
    pictures = data.index(b"mdat") + 4
    moov = data.index(b"moov")
    end = moov - 4 if moov > pictures else len(data)
    data[pictures:end] = bytes(end - pictures)
    return bytes(data)


def _png(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    rows = zlib.compress(bytes(1 << 24))  # declared is a thousand times as much
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    control = struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 25, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [
            chunk(b"IHDR", head),
            chunk(b"acTL", struct.pack(">II", 1, 0)),
            chunk(b"fcTL", control),
            chunk(b"IDAT", rows),
            chunk(b"IEND", b""),
        ]
    )


GIANTS = {
    "apng": _png(30000, 30000),
    "gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\x02\x02\x4c\x01\x00;",
    "y4m": b"YUV4MPEG2 W30000 H30000 F25:1 C420\nFRAME\n" + bytes(1000),
    "ivf": b"DKIF" + struct.pack("<HH4sHHIIII", 0, 32, b"VP80", 30000, 30000, 25, 1, 9, 0)
    + struct.pack("<IQ", 10, 0) + b"\x10\x02\x00\x9d\x01\x2a" + struct.pack("<HH", 16383, 16383),
    "mjpeg": b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65500, 65500, 3)
    + bytes([1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1]) + b"\xff\xda" + bytes(100) + b"\xff\xd9",
}  # fmt: skip


@pytest.mark.parametrize("name", GIANTS)
def test_giant_pictures_are_refused_before_they_are_held(decoder: Decoder, name: str) -> None:
    assert outcome(decoder, GIANTS[name]) in ("unsupported", "not_a_video", "decode_error")
    assert outcome(decoder, GOOD) == "clips"


TABLES = ["stts", "stsz", "stsc", "stco", "ctts", "stss", "elst"]


@pytest.mark.parametrize("count", [1_000_000, 0x0FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("table", TABLES)
def test_billions_of_declared_samples_cost_neither_time_nor_memory(
    decoder: Decoder, table: str, count: int
) -> None:
    data = bytearray(GOOD)
    for match in re.finditer(table.encode(), GOOD):
        at = match.end() + 4 + (4 if table == "stsz" else 0)
        data[at : at + 4] = struct.pack(">I", count)
    began = time.monotonic()
    assert outcome(decoder, bytes(data)) in (
        "clips", "not_a_video", "corrupt", "truncated", "no_frames", "decode_error",
        "decode_memory", "unsupported", "no_video_stream",
    )  # fmt: skip
    assert time.monotonic() - began < 2 * LIMITS.timeout_s, "within its deadlines"
    assert outcome(decoder, GOOD) == "clips"


def test_one_sample_that_lasts_for_years_is_no_million_of_clips(decoder: Decoder) -> None:
    data = bytearray(GOOD)
    at = GOOD.index(b"stts") + 8
    data[at + 4 : at + 8] = struct.pack(">I", 0x7FFFFFFF)  # of its only entry, the duration below
    data[at + 8 : at + 12] = struct.pack(">I", 0x7FFFFFFF)
    assert outcome(decoder, bytes(data)) != "clips"


def test_a_long_film_of_nothing_is_read_as_it_comes(decoder: Decoder) -> None:
    """A million frames that the file really has may take long; their memory is that of one."""
    out = io.BytesIO(b"YUV4MPEG2 W16 H16 F1000:1 C420\n")
    out.seek(0, 2)
    out.write((b"FRAME\n" + bytes(384)) * 20_000)
    rule = ClipRule(frames=5, height=32, width=40, fps=1.0, short="drop")
    with Decoder(rule, DecodeLimits(timeout_s=10, memory_mb=32)) as small:
        assert outcome(small, out.getvalue()) == "clips"
