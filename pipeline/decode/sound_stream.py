"""The sound of one clip as a stream that a file could hold, and back.

Samples are int16 `[n, channels]`. FLAC and PCM give them back exactly; Opus gives as many back.
"""

import io
import wave
from typing import Any, Final

import av
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

from pipeline.decode.clip_rule import SoundRule

_OPUS_BITS: Final = 64_000
"""Bits per second of Opus."""

_LAYOUTS: Final = {1: "mono", 2: "stereo"}

_LAST: Final = 0x80
"""Flag of the last metadata block of a FLAC stream."""


def encode_sound(samples: NDArray[np.int16], rule: SoundRule) -> bytes:
    """Return a self-contained stream of a clip's samples.

    Args:
        samples: `[n, channels]`.
        rule: codec, rate and channels.
    """
    out = io.BytesIO()
    if rule.codec == "pcm16":
        with wave.open(out, "wb") as file:
            file.setparams((rule.channels, 2, rule.rate, len(samples), "NONE", ""))
            file.writeframes(samples.astype("<i2").tobytes())
        return out.getvalue()
    name, container = ("flac", "flac") if rule.codec == "flac" else ("libopus", "ogg")
    with av.open(out, "w", format=container) as file:
        stream: Any = file.add_stream(name, rate=rule.rate)
        stream.layout = _LAYOUTS[rule.channels]
        stream.format = "s16"
        if rule.codec == "opus":
            stream.bit_rate = _OPUS_BITS
        frame = AudioFrame.from_ndarray(
            np.ascontiguousarray(samples).reshape(1, -1), "s16", _LAYOUTS[rule.channels]
        )
        frame.sample_rate, frame.pts = rule.rate, 0
        file.mux(stream.encode(frame) if len(samples) else [])
        file.mux(stream.encode(None))
    data = out.getvalue()
    return _without_padding(data) if rule.codec == "flac" else data


def _without_padding(flac: bytes) -> bytes:
    """Return a FLAC stream with STREAMINFO alone: FFmpeg adds 8 kB of padding, and its version."""
    size = int.from_bytes(flac[5:8])
    info, at = flac[8 : 8 + size], 4
    while True:
        last, length = flac[at] & _LAST, int.from_bytes(flac[at + 1 : at + 4])
        at += 4 + length
        if last:
            break
    return flac[:4] + bytes([_LAST]) + size.to_bytes(3) + info + flac[at:]


def decode_sound(data: bytes) -> NDArray[np.float32]:
    """Return the samples of a stored stream, aligned with the clip that it belongs to.

    Args:
        data: value of the column `audio`.

    Returns:
        Array `[channels, n]` in [-1, 1].

    Raises:
        ValueError: the stream is damaged.
    """
    pieces: list[NDArray[Any]] = []
    try:
        with av.open(io.BytesIO(data)) as file:
            for frame in file.decode(audio=0):
                samples = frame.to_ndarray()
                if not frame.format.is_planar:
                    samples = samples.reshape(-1, frame.layout.nb_channels).T
                pieces.append(samples)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"the stream of a clip's sound is damaged: {error}") from error
    if not pieces:
        return np.zeros((1, 0), np.float32)
    joined = np.concatenate(pieces, 1)
    scale = 1 << 15 if joined.dtype == np.int16 else 1
    return np.ascontiguousarray(joined, np.float32) / np.float32(scale)
