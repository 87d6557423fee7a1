"""Sound on the clock of the pictures: clicks against flashes, gaps, damage, and sums."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.decode import ClipRule, DecodeLimits, Decoder, SoundRule
from pipeline.decode.sound_stream import decode_sound
from pipeline.records import Clip, Sample, Span
from tests.pipeline.decode.sounds import FPS, RATE, Form, clicks, flashing

RULE = ClipRule(frames=16, height=32, width=32, fps=None, short="pad")
SOUND = SoundRule(codec="flac", rate=RATE, channels=2)
AT = [0.4, 1.0, 1.6, 2.4]
FORMS = [
    Form("mp4", "libx264", "aac"),
    Form("mp4", "libx264", "aac", rate=44_100, b_frames=2),
    Form("mp4", "libx264", "libmp3lame"),
    Form("mov", "libx264", "pcm_s16le"),
    Form("matroska", "libx264", "libopus"),
    Form("matroska", "libx264", "flac", rate=44_100),
    Form("webm", "libvpx-vp9", "libopus"),
    Form("mpegts", "libx264", "aac"),
    Form("mpegts", "mpeg2video", "mp2"),
    Form("avi", "mpeg4", "libmp3lame"),
]

Made = list[tuple[Clip, NDArray[Any]]]


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(RULE, DecodeLimits(), SOUND) as decoder:
        yield decoder


def decoded(decoder: Decoder, video: bytes, span: Span | None = None) -> Made:
    sample = Sample(key="k", video=video, video_name="v", span=span)
    return [(clip, f) for clip, f in decoder.decode(sample, "u") if f is not None]


def sound(made: Made) -> NDArray[np.float32]:
    """Return the sound of consecutive clips, one after another."""
    return np.concatenate([decode_sound(clip.side["audio"]) for clip, _ in made], 1)


def offsets_ms(made: Made) -> list[float]:
    """Return for each flash how much later the next click within 50 ms of it begins."""
    start_s = made[0][0].start_s
    whole = np.abs(sound(made)[0])
    found: list[float] = []
    before = 0.0
    for clip, frames in made:
        step_s = (clip.end_s - clip.start_s) / (clip.num_frames - clip.padded_frames)
        for n, level in enumerate(frames.mean((1, 2, 3))):
            if level > 150 >= before and n < clip.num_frames - clip.padded_frames:
                flash = round((clip.start_s + n * step_s - start_s) * RATE)
                low = max(0, flash - RATE // 20)
                near = np.flatnonzero(whole[low : flash + RATE // 20] > 0.4)
                assert len(near), f"no click near {flash / RATE:.3f} s"
                found.append((low + near[0] - flash) / RATE * 1000)
            before = level
    return found


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_clicks_are_heard_as_flashes_are_seen(form: Form, decoder: Decoder) -> None:
    made = decoded(decoder, flashing(form, 3, AT, clicks(3, AT, form.rate)))
    limit_ms = 1000 / FPS if form.container == "avi" else 1
    offsets = offsets_ms(made)
    assert len(offsets) == len(AT)
    assert max(map(abs, offsets)) <= limit_ms
    for clip, _ in made:
        samples = decode_sound(clip.side["audio"])
        assert samples.shape == (2, round((clip.end_s - clip.start_s) * RATE))
        assert clip.side["audio_source_rate"] == form.rate
        assert clip.side["audio_source_channels"] == 2


@pytest.mark.parametrize("container", ["matroska", "mov"])
@pytest.mark.parametrize("delay_s", [0.3, 0.0])
def test_sound_that_begins_later_and_ends_earlier(
    container: str, delay_s: float, decoder: Decoder
) -> None:
    form = Form(container, "libx264", "flac" if container == "matroska" else "pcm_s16le")
    samples = clicks(2, [moment - delay_s for moment in AT[:3]])
    made = decoded(decoder, flashing(form, 3, AT[:3], samples, delay_s))
    assert max(map(abs, offsets_ms(made))) <= 1
    silence = sum(clip.side["audio_silence"] for clip, _ in made)
    assert abs(silence - (3 - 2) * RATE) <= RATE // 1000
    found = sound(made)
    assert (found[:, : max(0, round(delay_s * RATE) - 50)] == 0).all()
    assert (found[:, round((delay_s + 2) * RATE) + 50 :] == 0).all()


def test_clips_of_a_file_add_up_to_its_track(decoder: Decoder) -> None:
    samples = np.random.default_rng(0).integers(-9000, 9000, (3 * RATE, 2), np.int16)
    made = decoded(decoder, flashing(Form("matroska", "libx264", "flac"), 3, [], samples))
    assert np.array_equal(sound(made), samples.T.astype(np.float32) / (1 << 15))
    assert all(clip.side["audio_silence"] == 0 for clip, _ in made)


def test_the_sound_of_a_span_is_that_of_the_whole_file(decoder: Decoder) -> None:
    samples = np.random.default_rng(1).integers(-9000, 9000, (40 * RATE, 2), np.int16)
    video = flashing(Form("matroska", "libx264", "flac"), 40, [], samples)
    made = decoded(decoder, video, Span(start_s=35.2, end_s=37.0))
    first = round(made[0][0].start_s * RATE)
    assert made[0][0].start_s == 35.2
    found = sound(made)
    expected = samples[first : first + found.shape[1]].T.astype(np.float32) / (1 << 15)
    assert np.array_equal(found, expected)


def test_frames_are_those_without_sound(decoder: Decoder) -> None:
    video = flashing(FORMS[0], 2, AT[:2], clicks(2, AT[:2]))
    with Decoder(RULE, DecodeLimits()) as other:
        silent = decoded(other, video)
    assert all(clip.side == {} for clip, _ in silent)
    for (_, found), (_, expected) in zip(decoded(decoder, video), silent, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_track_never_costs_the_video(seed: int, decoder: Decoder) -> None:
    form = Form("mov", "libx264", "aac")
    clean = clicks(2, AT[:2])
    video = bytearray(flashing(form, 2, AT[:2], clean))
    rng = np.random.default_rng(seed)
    for start, stop in sound_packets(bytes(video)):
        if rng.random() < 0.5:
            video[start:stop] = rng.bytes(stop - start)
    made = decoded(decoder, bytes(video))
    expected = decoded(decoder, flashing(form, 2, AT[:2], clean))
    assert len(made) == len(expected)
    for (clip, found), (_, pixels) in zip(made, expected, strict=True):
        assert np.array_equal(found, pixels)
        if clip.side:
            count = round((clip.end_s - clip.start_s) * RATE)
            assert decode_sound(clip.side["audio"]).shape == (2, count)


def sound_packets(video: bytes) -> list[tuple[int, int]]:
    """Return where the packets of the sound lie in a file."""
    import io

    import av

    with av.open(io.BytesIO(video)) as file:
        packets = [packet for packet in file.demux(audio=0) if packet.size]
        return [(packet.pos, packet.pos + packet.size) for packet in packets]


def test_a_video_without_a_track_has_no_sound(
    decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    from tests.assets import VIDEOS

    sample = Sample(key="k", video=str(VIDEOS / "hiker_tiny.mp4"), video_name="v")
    made = [clip.side for clip, _ in decoder.decode(sample, "u")]
    assert made
    assert all(side.get("audio") is None for side in made)


def test_other_decoders_do_not_see_the_track(
    decoder: Decoder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="pipeline")
    samples = np.zeros((RATE, 2), np.int16)
    made = decoded(decoder, flashing(Form("avi", "mpeg4", "adpcm_ms"), 1, [], samples))
    assert [clip.side for clip, _ in made] == [{}, {}]
    assert (
        "the clip has no sound: the decoder adpcm_ms is not among those that are allowed"
        in caplog.text
    )
