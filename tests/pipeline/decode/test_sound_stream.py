import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.decode import SoundRule
from pipeline.decode.sound_stream import decode_sound, encode_sound


def noise(count: int, channels: int, seed: int = 0) -> NDArray[np.int16]:
    rng = np.random.default_rng(seed)
    return rng.integers(-(1 << 15), 1 << 15, (count, channels), np.int16)


def rule(codec: str, rate: int = 48_000, channels: int = 2) -> SoundRule:
    return SoundRule(codec=codec, rate=rate, channels=channels)  # type: ignore[arg-type]


@pytest.mark.parametrize("codec", ["flac", "pcm16"])
@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 20_000),
    channels=st.integers(1, 2),
    rate=st.sampled_from([8000, 16_000, 44_100, 48_000, 96_000]),
    seed=st.integers(0, 9),
)
def test_samples_come_back_exactly(
    codec: str, count: int, channels: int, rate: int, seed: int
) -> None:
    samples = noise(count, channels, seed)
    data = encode_sound(samples, rule(codec, rate, channels))
    assert len(data) <= rule(codec, rate, channels).most_bytes(count)
    assert np.array_equal(decode_sound(data), samples.T.astype(np.float32) / (1 << 15))
    found, found_rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    assert found_rate == rate
    assert np.array_equal(found, samples)


@pytest.mark.parametrize("rate", [8000, 16_000, 24_000, 48_000])
@pytest.mark.parametrize("count", [1, 500, 960, 16_320, 102_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_opus_gives_as_many_samples_back(rate: int, count: int, channels: int) -> None:
    time = np.arange(count) / rate
    samples = np.repeat((8000 * np.sin(2 * np.pi * 440 * time)).astype(np.int16)[:, None], 2, 1)
    data = encode_sound(samples[:, :channels], rule("opus", rate, channels))
    found = decode_sound(data)
    # Opus decodes at 48 kHz, whatever it was given.
    assert found.shape == (channels, round(count * 48_000 / rate))
    if count > 10_000:
        again = found[0, :: 48_000 // rate][:count]
        assert np.corrcoef(again, samples[:, 0])[0, 1] > 0.99


def test_a_flac_stream_has_no_padding_and_no_name_of_its_maker() -> None:
    data = encode_sound(np.zeros((48_000, 2), np.int16), rule("flac"))
    assert len(data) < 1000
    assert b"Lavf" not in data


def test_no_samples_are_a_stream_too() -> None:
    for codec in ("flac", "pcm16"):
        assert decode_sound(encode_sound(noise(0, 2), rule(codec))).shape[1] == 0


@pytest.mark.parametrize("data", [b"", b"no stream", b"fLaC", b"RIFF\0\0\0\0WAVE"])
def test_damage_is_told(data: bytes) -> None:
    with pytest.raises(ValueError, match="the stream of a clip's sound is damaged"):
        decode_sound(data)
