"""Windows on real files: one decode gives what several give, with sound, from spans and images."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.decode import ClipRule, DecodeLimits, Decoder, SoundRule, clip_rules, clips
from pipeline.decode.sound_stream import decode_sound
from pipeline.quarantine import QuarantineError
from pipeline.records import Clip, Sample, Span
from tests.assets import VIDEOS
from tests.pipeline.decode.sounds import RATE, Form, clicks, flashing
from tests.pipeline.decode.synthetic import counting

SOUND = SoundRule(codec="flac", rate=RATE, channels=2)
BUCKETS = ((5, 32, 32), (5, 48, 40), (12, 24, 32), (100, 16, 16), (5, 72, 16))
"""The last two are longer, and larger, than the videos here."""

Made = list[tuple[Clip, NDArray[Any]]]


def rules(*shapes: tuple[int, int, int], **how: Any) -> tuple[ClipRule, ...]:
    buckets = [{"frames": t, "height": h, "width": w} for t, h, w in shapes]
    shared = {"fps": 8.0, "short": "drop", "resize": "uint8", "buckets": buckets}
    return clip_rules(shared | how)


def decoded(wanted: Sequence[ClipRule], sample: Sample, sound: SoundRule | None = None) -> Made:
    numbers = {"fps": "float64"} if wanted[0].names_fps else None
    with Decoder(wanted, DecodeLimits(), sound, numbers) as decoder:
        return [(clip, f) for clip, f in decoder.decode(sample, "u") if f is not None]


@pytest.mark.parametrize("container", ["mov", "mpegts"])
@pytest.mark.parametrize("how", [{"stride_s": 0.3}, {"stride_s": 1.1, "max_per_sample": 2}])
def test_a_clip_of_a_fan_out_is_that_of_its_rule_alone(container: str, how: dict[str, Any]) -> None:
    """Pixels, times and sound, though clips overlap and those of several rates come together."""
    audio = "pcm_s16le" if container == "mov" else "aac"
    sound = clicks(3, [0.4, 1.0, 1.6, 2.4], 44_100)
    video = flashing(Form(container, "libx264", audio, rate=44_100), 3, [1.0], sound)
    sample = Sample(key="k", video=video, video_name="v")
    wanted = rules(*BUCKETS, fps=[8.0, None, 3.5], every_bucket=True, **how)
    together = decoded(wanted, sample, SOUND)
    count = 0
    for fps in (8.0, None, 3.5):
        for shape in BUCKETS[:2] if fps == 3.5 else BUCKETS[:3]:
            alone = decoded(rules(shape, fps=fps, **how), sample, SOUND)
            mine = [
                (clip, frames)
                for clip, frames in together
                if clip.side["fps"] == fps and frames.shape[:3] == shape
            ]
            assert len(mine) == len(alone) > 0
            count += len(mine)
            for (clip, frames), (other, other_frames) in zip(mine, alone, strict=True):
                assert np.array_equal(frames, other_frames)
                assert clip.frame_times == other.frame_times
                assert (clip.start_s, clip.end_s) == (other.start_s, other.end_s)
                assert clip.side == other.side | {"fps": fps}
                assert clip.side["audio"] is not None
    assert count == len(together)
    assert len({clip.clip_id for clip, _ in together}) == count


def test_overlapping_clips_have_their_part_of_the_track() -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, (3 * RATE, 2), np.int16)
    video = flashing(Form("matroska", "libx264", "flac"), 3, [], samples)
    wanted = rules((4, 32, 32), (16, 32, 32), fps=[5.0, 25.0], every_bucket=True, stride_s=0.2)
    found = decoded(wanted, Sample(key="k", video=video, video_name="v"), SOUND)
    assert len(found) == 12 + 15 + 12
    for clip, _ in found:
        first = round(clip.start_s * RATE)
        own = samples[first : first + round((clip.end_s - clip.start_s) * RATE)]
        heard = decode_sound(clip.side["audio"])
        assert np.array_equal(heard, own.T.astype(np.float32) / (1 << 15))


@pytest.fixture
def grey() -> bytes:
    """Frame i of 50 is shown from i/10 s on and has level i; every tenth is a key picture."""
    return counting(50, rate=10, codec="libx264", options={"qp": "0", "g": "10"})


def cut(video: bytes, wanted: Sequence[ClipRule], span: Span | None = None) -> Iterator[Any]:
    for clip, _ in clips.clips(io.BytesIO(video), wanted, DecodeLimits(), lambda: None, span, "k"):
        yield clip.start_s, clip.end_s, clip.frames is not None and clip.frames.tobytes()


@pytest.mark.parametrize("fps", [None, 4.0])
def test_an_offset_makes_a_span_begin_later(fps: float | None, grey: bytes) -> None:
    how = {"fps": fps, "short": "pad", "stride_s": 0.5}
    plain, later = rules((4, 16, 16), **how), rules((4, 16, 16), **how, offset_s=1.3)
    for span, other in (
        (None, Span(start_s=1.3)),
        (Span(start_s=0.4, end_s=4.1), Span(start_s=1.7, end_s=4.1)),
    ):
        assert list(cut(grey, later, span)) == list(cut(grey, plain, other))
    assert list(cut(grey, later, Span(start_s=4))) == [], "it is too short, and not damaged"


def test_a_video_is_decoded_once_whatever_it_fills(
    grey: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    honest = clips.open_video
    monkeypatch.setattr(clips, "open_video", lambda *a: opened.append(a) or honest(*a))
    for lengths in ((100, 20), (100, 60), (100, 50, 7)):
        opened.clear()
        wanted = rules(*((length, 16, 16) for length in lengths), fps=[None, 5.0])
        assert len(list(cut(grey, wanted))) > 0
        assert len(opened) == 1


@pytest.mark.parametrize("choose", ["even", "hash"])
def test_a_video_that_breaks_keeps_the_clips_chosen_before_it_broke(choose: str) -> None:
    video = (VIDEOS / "broken/truncated_half.mp4").read_bytes()
    kept: list[list[Any]] = []
    for most in (None, 1000, 2):
        found: list[Any] = []
        with pytest.raises(QuarantineError):
            found.extend(cut(video, rules((4, 16, 16), max_per_sample=most, choose=choose)))
        kept.append([clip for clip in found if clip[2]])
    assert kept[0] == kept[1]
    assert len(kept[2]) == 2
    assert set(kept[2]) < set(kept[0])


def test_an_image_has_all_sizes_that_it_fills() -> None:
    data = io.BytesIO()
    Image.fromarray(np.full((40, 60, 3), 200, np.uint8)).save(data, "PNG")
    sample = Sample(key="k", video=data.getvalue(), video_name="k", is_image=True)
    shapes = ((1, 16, 16), (1, 40, 60), (1, 48, 48), (5, 16, 16))
    wanted = rules(*shapes, fps=[8.0, None], every_bucket=True)
    found = decoded(wanted, sample)
    assert [(clip.clip_index, frames.shape[:3]) for clip, frames in found] == [
        (0, (1, 16, 16)),
        (1, (1, 40, 60)),
    ]
    assert all(clip.side == {"fps": None} for clip, _ in found), "an image has no rate"
    [(_, frames)] = decoded(rules((1, 48, 48), (1, 96, 50), every_bucket=True), sample)
    assert frames.shape == (1, 48, 48, 3), "it fills none, and loses least in this one"
