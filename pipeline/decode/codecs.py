"""What FFmpeg, as PyAV ships it, can decode."""

from typing import Final

import av
from av.codec.codec import Codec, UnknownCodecError

EXPECTED: Final = ("h264", "hevc", "av1", "vp9", "prores")
"""Codecs of most corpora, by FFmpeg's names."""


def ffmpeg_libraries() -> dict[str, str]:
    """Return the version of each library of FFmpeg, such as `libavcodec`."""
    return {name: ".".join(map(str, numbers)) for name, numbers in av.library_versions.items()}


def missing_decoders() -> list[str]:
    """Return those of `EXPECTED` for which there is no decoder."""
    missing = []
    for name in EXPECTED:
        try:
            Codec(name, "r")
        except UnknownCodecError:
            missing.append(name)
    return missing
