"""A file that lacks its end is found wherever it is cut; a file that lacks nothing is whole."""

import io
import struct
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest

from pipeline.decode.clip_rule import DecodeLimits
from pipeline.decode.container.file_structure import boxes
from pipeline.decode.container.video import open_video
from pipeline.quarantine import QuarantineError
from tests.pipeline.decode.synthetic import encode, remux

COUNT = 40
FRAGMENTED = "frag_keyframe+empty_moov+default_base_moof"


def outcome(video: bytes, **limits: Any) -> tuple[int, str]:
    count = 0
    try:
        with open_video(io.BytesIO(video), DecodeLimits(**limits)) as opened:
            for _ in opened.frames(lambda: None):
                count += 1
    except QuarantineError as error:
        return count, error.reason
    return count, "whole"


def noise(container: str, codec: str = "mpeg4", **muxing: str) -> bytes:
    """Forty pictures, of which every tenth is a key picture."""
    luma = np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32), np.uint8)
    chroma = np.full((16, 16), 128, np.uint8)
    video = encode(
        ((picture, chroma, chroma) for picture in luma),
        pix_fmt="yuv420p",
        codec=codec,
        time_base=Fraction(1, 25),
        options={"g": "10", "bf": "0", "sc_threshold": "1000000000"},
    )
    return remux(video, container, **muxing)


KINDS = {
    "mkv": ("matroska", {}),
    "live.mkv": ("matroska", {"live": "1"}),
    "avi": ("avi", {}),
    "asf": ("asf", {}),
    "flv": ("flv", {}),
    "faststart.mp4": ("mp4", {"movflags": "faststart"}),
    "fragments.mp4": ("mp4", {"movflags": FRAGMENTED}),
    "sidx.mp4": ("mp4", {"movflags": f"{FRAGMENTED}+dash+global_sidx"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_anywhere_is_found(kind: str):
    """At sixty places; between two blocks of a live recording nothing proves a cut."""
    container, options = KINDS[kind]
    codec = {"asf": "msmpeg4", "flv": "libx264"}.get(container, "mpeg4")
    video = noise(container, codec, **options)
    assert outcome(video) == (COUNT, "whole")
    for place in range(1, 60):
        cut = video[: len(video) * place // 60]
        count, reason = outcome(cut)
        assert reason != "whole" or count == COUNT, f"cut at {place}/60: {count} pictures"


def without(video: bytes, fragment: int) -> bytes:
    """The file without one of its fragments."""
    found = list(boxes(io.BytesIO(video), 0, len(video)))
    begins = [begin - 8 for kind, begin, _ in found if kind == b"moof"]
    ends = [end for kind, _, end in found if kind == b"mdat"]
    return video[: begins[fragment]] + video[ends[fragment] :]


def renumbered(video: bytes, step: int) -> bytes:
    out = bytearray(video)
    found = [begin for kind, begin, _ in boxes(io.BytesIO(video), 0, len(video)) if kind == b"moof"]
    for index, begin in enumerate(found):
        out[begin + 12 : begin + 16] = struct.pack(">I", 1 + index * step)
    return bytes(out)


def test_a_lost_fragment_is_found():
    video = noise("mp4", movflags=FRAGMENTED)
    assert outcome(without(video, 1)) == (30, "truncated")
    assert outcome(without(video, 2)) == (30, "truncated")
    assert outcome(without(video, 1), damage="keep") == (30, "whole")


def test_a_recording_of_fragments_may_begin_later_pause_and_count_as_it_likes():
    video = noise("mp4", movflags=FRAGMENTED)
    assert outcome(without(video, 0)) == (30, "whole")
    assert outcome(renumbered(video, 2)) == (COUNT, "whole"), "a track that was taken out of a file"
    paused = renumbered(without(video, 1), 1)
    assert outcome(paused) == (30, "whole")


def test_fragments_that_only_the_segment_index_lists_are_missed():
    video = noise("mp4", movflags=f"{FRAGMENTED}+dash+global_sidx")
    last = [
        begin - 8 for kind, begin, _ in boxes(io.BytesIO(video), 0, len(video)) if kind == b"moof"
    ][-1]
    assert outcome(video[:last]) == (30, "truncated")
    plain = noise("mp4", movflags=FRAGMENTED)
    ends = [end for kind, _, end in boxes(io.BytesIO(plain), 0, len(plain)) if kind == b"mdat"]
    assert outcome(plain[: ends[-2]]) == (30, "whole"), "nothing lists the last fragment"


@pytest.mark.parametrize("container", ["asf", "flv", "matroska", "avi", "mp4"])
def test_sound_that_outlasts_the_pictures_takes_nothing_from_them(container: str):
    out = io.BytesIO()
    with av.open(out, "w", format=container) as target:
        video = target.add_stream("flv1" if container == "flv" else "mpeg4", rate=25)
        video.width = video.height = 32
        video.pix_fmt = "yuv420p"
        sound = target.add_stream("wmav2" if container == "asf" else "aac", rate=44100)
        sound.bit_rate = 64_000
        for index in range(25):
            frame = av.VideoFrame(32, 32, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.pts = index
            target.mux(video.encode(frame))
        target.mux(video.encode())
        for index in range(200):
            samples = av.AudioFrame("fltp", "stereo", 1024)
            for plane in samples.planes:
                plane.update(bytes(plane.buffer_size))
            samples.sample_rate, samples.pts = 44100, index * 1024
            target.mux(sound.encode(samples))
        target.mux(sound.encode())
    assert outcome(out.getvalue()) == (25, "whole")


def test_pictures_that_an_avi_leaves_out_are_time():
    """AVI stores an empty chunk for each moment at which there is no new picture."""
    grey = [
        (np.full((32, 32), 9 * n, np.uint8), *2 * (np.full((16, 16), 128, np.uint8),))
        for n in range(9)
    ]
    video = encode(
        grey, pix_fmt="yuv420p", codec="mpeg4", container="avi", time_base=Fraction(1, 25),
        pts=[0, 1, 2, 6, 7, 8, 20, 21, 22], options={"bf": "0"},
    )  # fmt: skip
    with open_video(io.BytesIO(video), DecodeLimits()) as opened:
        times = [shown.start_s * 25 for shown in opened.frames(lambda: None)]
    assert [time - times[0] for time in times] == [0, 1, 2, 6, 7, 8, 20, 21, 22]
