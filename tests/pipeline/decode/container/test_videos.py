"""Every test video through a Decoder: clips and their provenance, or an understandable end."""

import hashlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.decode import ClipRule, DecodeLimits, Decoder
from pipeline.quarantine import REASONS, QuarantineError
from pipeline.records import Clip, Sample
from tests.assets import (
    BIKES,
    BROKEN,
    GOOD,
    HIKER,
    ODD_SIZE,
    ROTATED,
    VFR,
    VIDEOS,
    BrokenVideo,
    GoodVideo,
)
from tests.pipeline.decode.conftest import SMALL
from tests.pipeline.decode.synthetic import counting, sample

Clips = list[tuple[Clip, NDArray[Any] | None]]


def of(path: Path) -> Sample:
    return Sample(key=path.stem, video=path.read_bytes(), video_name=path.name, caption="a word")


def digest(clips: Clips) -> str:
    text = hashlib.sha256()
    for clip, frames in clips:
        text.update(repr(clip).encode())
        text.update(b"" if frames is None else frames.tobytes())
    return text.hexdigest()


def until_broken(decoder: Decoder, video: Sample) -> tuple[Clips, QuarantineError]:
    clips: Clips = []
    with pytest.raises(QuarantineError) as caught:
        clips.extend(decoder.decode(video, "u"))
    return clips, caught.value


@pytest.mark.parametrize("asset", GOOD, ids=lambda a: a.name)
def test_good_videos_decode_whole(decoder: Decoder, asset: GoodVideo):
    clips = list(decoder.decode(of(asset.path), "unit-7"))
    padded = [clip.padded_frames for clip, _ in clips]
    assert len(clips) * 17 - sum(padded) == asset.picks_at_8_fps
    assert padded[:-1] == [0] * (len(clips) - 1)
    for index, (clip, frames) in enumerate(clips):
        assert (clip.unit, clip.key, clip.clip_index) == ("unit-7", asset.path.stem, index)
        assert clip.caption == "a word"
        assert (clip.source_height, clip.source_width) == (asset.height, asset.width)
        assert clip.source_fps == pytest.approx(asset.fps, rel=1e-3)
        assert clip.start_s == pytest.approx(asset.start_s + index * 17 / 8)
        assert clip.end_s - clip.start_s == pytest.approx((17 - clip.padded_frames) / 8)
        top, left, height, width = clip.crop
        assert height / width == pytest.approx(1, rel=0.02)
        assert top == pytest.approx((asset.height - height) / 2, abs=height / 64)
        assert left == pytest.approx((asset.width - width) / 2, abs=width / 64)
        assert frames is not None
        assert (frames.shape, frames.dtype) == ((17, 64, 64, 3), np.uint8)
        copies = frames[17 - clip.padded_frames - 1 :]
        assert (copies == copies[0]).all()
    assert [a.end_s for (a, _), _ in pairwise(clips)] == [
        b.start_s for _, (b, _) in pairwise(clips)
    ]


@pytest.mark.parametrize("asset", GOOD, ids=lambda a: a.name)
def test_without_a_rate_every_frame_is_there(asset: GoodVideo, every_frame: Decoder):
    clips = list(every_frame.decode(of(asset.path), "u"))
    assert sum(5 - clip.padded_frames for clip, _ in clips) == asset.frames


@pytest.fixture(scope="module")
def every_frame():
    rule = ClipRule(frames=5, height=8, width=8, fps=None, short="pad")
    with Decoder(rule, DecodeLimits(timeout_s=30)) as decoder:
        yield decoder


@pytest.mark.parametrize("asset", BROKEN, ids=lambda a: a.name)
def test_broken_videos_say_what_is_wrong(decoder: Decoder, asset: BrokenVideo):
    clips, error = until_broken(decoder, of(asset.path))
    assert (error.stage, error.reason) == ("decode", asset.reason), error.detail
    assert error.reason in REASONS
    assert asset.says in error.detail
    assert "Traceback" not in error.detail
    assert "\n" not in error.detail
    assert len(clips) * 17 >= asset.good_frames
    assert all(frames is not None and clip.padded_frames == 0 for clip, frames in clips)


def test_no_video_is_missing_in_the_tables():
    files = {p.relative_to(VIDEOS).as_posix() for p in VIDEOS.rglob("*.*") if p.is_file()}
    assert files == {a.name for a in GOOD} | {f"broken/{a.name}" for a in BROKEN}


def test_the_same_bytes_give_the_same_clips_and_the_same_end(decoder: Decoder):
    """From the same child, whatever it did in between, from a new one, and from a path."""
    broken = next(a for a in BROKEN if a.name == "zeroed_middle.mp4")
    clips, error = until_broken(decoder, of(broken.path))
    whole = digest(list(decoder.decode(of(BIKES.path), "u")))
    path = Sample(key=BIKES.path.stem, video=str(BIKES.path), video_name="x", caption="a word")
    with Decoder(SMALL) as fresh:
        for other in (decoder, fresh):
            again, same = until_broken(other, of(broken.path))
            assert (digest(again), str(same)) == (digest(clips), str(error))
            assert digest(list(other.decode(path, "u"))) == whole


def test_clips_before_the_damage_are_those_of_the_whole_video(decoder: Decoder):
    whole = list(decoder.decode(of(HIKER.path), "u"))
    half, error = until_broken(decoder, of(VIDEOS / "broken" / "truncated_half.mp4"))
    assert error.reason == "truncated"
    assert len(half) == 1
    assert np.array_equal(half[0][1], whole[0][1])


def test_a_remainder_is_dropped_as_a_clip_without_frames():
    rule = ClipRule(frames=17, height=32, width=32, fps=8, short="drop")
    with Decoder(rule) as decoder:
        clips = list(decoder.decode(of(HIKER.path), "u"))
        assert [frames is None for _, frames in clips] == [False, False, True]
        last = clips[-1][0]
        assert (last.clip_index, last.start_s, last.end_s) == (2, 4.25, 6.125)
        assert last.padded_frames == 0
        exact = list(decoder.decode(sample(counting(34, rate=8)), "u"))
        assert [frames is None for _, frames in exact] == [False, False]


@pytest.mark.parametrize("asset", [BIKES, ODD_SIZE, ROTATED[0]], ids=lambda a: a.name)
def test_whole_frames_hold_the_cropped_ones(asset: GoodVideo):
    how = {"frames": 5, "height": 40, "width": 32, "fps": 8, "short": "pad"}
    with Decoder(ClipRule(**how)) as a, Decoder(ClipRule(**how, fit="whole")) as b:
        cropped, whole = (list(d.decode(of(asset.path), "u")) for d in (a, b))
    assert len(cropped) == len(whole)
    for (clip, small), (other, large) in zip(cropped, whole, strict=True):
        assert small is not None
        assert large is not None
        assert other.crop == (0, 0, asset.height, asset.width)
        assert (other.start_s, other.padded_frames) == (clip.start_s, clip.padded_frames)
        assert large.shape[1] == 40 or large.shape[2] == 32
        top, left = (round((large.shape[n] - small.shape[n]) / 2) for n in (1, 2))
        assert np.array_equal(large[:, top : top + 40, left : left + 32], small)


def test_frames_are_chosen_by_their_time(decoder: Decoder):
    """The grey level is the frame's number; frames 10 to 19 are missing, so 9 stays."""
    pts = [i * 40 for i in range(40) if not 10 <= i < 20]
    levels = [frame[0, 0, 0] for frame in clip_of(decoder, counting(30, pts=pts))]
    begun = [i / 8 * 1000 + 20 for i in range(12)]
    expected = [max(n for n, t in enumerate(pts) if t <= moment) for moment in begun]
    assert levels[:12] == expected
    assert expected[4:7] == [9, 9, 9]


def test_24_fps_at_8_takes_frames_0_3_6(decoder: Decoder):
    levels = [frame[0, 0, 0] for frame in clip_of(decoder, counting(51, rate=24))]
    assert levels == list(range(0, 51, 3))


def clip_of(decoder: Decoder, video: bytes) -> NDArray[Any]:
    ((_, frames),) = decoder.decode(sample(video), "u")
    assert frames is not None
    return frames


def test_a_long_pause_holds_the_frame_before_it(decoder: Decoder):
    """In the real VFR video one frame is shown from 0.72 to 1.48 s."""
    frames = next(iter(decoder.decode(of(VFR.path), "u")))[1]
    assert frames is not None
    same = [bool((a == b).all()) for a, b in pairwise(frames)]
    assert any(same)
    assert sum(same) >= 4


def test_float_pixels_round_to_the_integer_ones():
    how = {"frames": 5, "height": 64, "width": 48, "fps": 8, "short": "pad"}
    with Decoder(ClipRule(**how)) as a, Decoder(ClipRule(**how, resize="float32")) as b:
        (_, whole), (_, exact) = (
            next(a.decode(of(BIKES.path), "u")),
            next(b.decode(of(BIKES.path), "u")),
        )
        assert whole is not None
        assert exact is not None
        assert exact.dtype == np.float32
        assert (exact != np.rint(exact)).any()
        assert np.abs(exact - whole).max() <= 1
