"""Codec baselines: H.264, HEVC and AV1 with at most the bits that a tokenizer spends on the clip.

For each clip, a binary search finds the finest quantizer whose packets fit the budget. Settings are
strong and aim at PSNR: slow presets, no psychovisual tuning, one group of pictures per clip,
constant quantizer. The size is that of the packets. It excludes the container, the parameter sets
(about 100 bytes per file) and the text that x264 adds about itself. Where even the coarsest
quantizer exceeds the budget, its result counts with the bits that it spent.

Pictures are rounded to 8 bits and converted to 4:2:0, as in practice. The conversion alone limits
PSNR to about 44 dB.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
import torch
from av.codec.context import Flags
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from torch import Tensor

from pipeline.evaluation.candidate import Reconstruction
from pipeline.tokenizers.protocol import Facts
from pipeline.tokenizers.reconstruction import as_bytes

_PIXEL_FORMAT: Final = "yuv420p"


_FRAME_TIME: Final = Fraction(1, 30)


_SEI: Final = 6


os.environ.setdefault("SVT_LOG", "-1")  # else SVT-AV1 prints its version on every start


@dataclass(frozen=True, slots=True)
class Codec:
    """An encoder of PyAV's FFmpeg with its settings, and its decoder."""

    title: str
    encoder: str
    decoder: str
    coarsest: int
    """Largest quantizer parameter; the finest is 1."""
    options: Callable[[int], dict[str, str]]


CODECS: Final = {
    "h264": Codec(
        "H.264 (x264, veryslow)",
        "libx264",
        "h264",
        51,
        lambda q: {"preset": "veryslow", "tune": "psnr", "qp": str(q), "x264-params": "log=-1"},
    ),
    "hevc": Codec(
        "HEVC (x265, slow)",
        "libx265",
        "hevc",
        51,
        lambda q: {
            "preset": "slow",
            "tune": "psnr",
            "x265-params": f"qp={q}:log-level=none:info=0:pools=1:frame-threads=1",
        },
    ),
    "av1": Codec(
        "AV1 (SVT-AV1, preset 4)",
        "libsvtav1",
        "libdav1d",
        63,
        lambda q: {"preset": "4", "crf": str(q), "svtav1-params": "lp=1:tune=1"},
    ),
}


def missing_codec(name: str) -> str | None:
    """Return the reason why this build of PyAV cannot use a codec; None if it can."""
    codec = CODECS[name]
    for library, mode in ((codec.encoder, "w"), (codec.decoder, "r")):
        try:
            av.Codec(library, mode)
        except ValueError:  # PyAV's UnknownCodecError
            return f"this build of PyAV has no {library}; take the wheel from PyPI"
    return None


class CodecAtSameBits:
    """A candidate: one codec with at most the bits of one tokenizer."""

    def __init__(self, codec: Codec, facts: Facts, cell_bits: float, name: str) -> None:
        self.name = name
        self._codec = codec
        self._facts = facts
        self._cell_bits = cell_bits

    def reconstruct(self, video: Tensor, clip_id: str) -> Reconstruction:
        """Encode a clip `[1, 3, T, H, W]` in [-1, 1] within the budget, and decode it."""
        _, t, h, w = self._facts.latent_shape(*video.shape[2:])
        budget = t * h * w * self._cell_bits
        stream = encode_within(to_pictures(as_bytes(video)), self._codec, budget)
        decoded = torch.from_numpy(decode(stream, self._codec)).to(video.device)
        back = (decoded.float() / 127.5 - 1).permute(3, 0, 1, 2)[None]
        bits = float(stream.bits)
        return Reconstruction(video=back, bits=bits, coded_bits=bits)


@dataclass(frozen=True, slots=True)
class EncodedStream:
    """One encoded clip."""

    packets: tuple[bytes, ...]
    parameter_sets: bytes | None

    @property
    def bits(self) -> int:
        """Number of bits that count."""
        return 8 * sum(map(len, self.packets))


def encode_within(
    pictures: Sequence[av.VideoFrame], codec: Codec, budget_bits: float
) -> EncodedStream:
    """Return the finest encoding within the budget, or the coarsest one of all."""
    finest, coarsest = 1, codec.coarsest
    best = None
    while finest < coarsest:
        middle = (finest + coarsest) // 2
        stream = encode(pictures, codec, middle)
        if stream.bits <= budget_bits:
            best, coarsest = stream, middle
        else:
            finest = middle + 1
    return best or encode(pictures, codec, codec.coarsest)


def to_pictures(frames: NDArray[np.uint8]) -> list[av.VideoFrame]:
    """Return frames `[T, H, W, 3]` as encoders take them: a search converts them once."""
    pictures = []
    reformat = VideoReformatter().reformat
    for n, frame in enumerate(frames):
        picture = reformat(av.VideoFrame.from_ndarray(frame, "rgb24"), format=_PIXEL_FORMAT)
        picture.pts, picture.time_base = n, _FRAME_TIME
        pictures.append(picture)
    return pictures


def encode(pictures: Sequence[av.VideoFrame], codec: Codec, quantizer: int) -> EncodedStream:
    """Return pictures of `to_pictures` as one group of pictures."""
    context: Any = av.CodecContext.create(codec.encoder, "w")
    context.height, context.width = pictures[0].height, pictures[0].width
    context.pix_fmt = _PIXEL_FORMAT
    context.time_base, context.framerate = _FRAME_TIME, 1 / _FRAME_TIME
    context.gop_size = len(pictures)
    context.thread_count = 1  # frame threads change the encoding
    context.flags |= Flags.global_header
    context.options = codec.options(quantizer)
    with own_scheduling():
        context.open()
    packets = []
    for picture in pictures:
        packets += context.encode(picture)
    packets += context.encode(None)
    coded = [bytes(packet) for packet in packets]
    if codec.encoder == "libx264":
        coded = [without_sei(packet) for packet in coded]
    return EncodedStream(tuple(coded), context.extradata)


@contextmanager
def own_scheduling() -> Iterator[None]:
    """Give this thread back its scheduling when the block ends.

    As root, SVT-AV1 makes the thread that opens it a real-time thread of the highest priority. It
    never undoes that, and all later threads and child processes inherit it. Two that wait for a
    third one in a busy loop then take two cores for ever.
    """
    if not hasattr(os, "sched_getscheduler"):  # macOS
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def decode(stream: EncodedStream, codec: Codec) -> NDArray[np.uint8]:
    """Return the frames `[T, H, W, 3]` of an encoded clip."""
    context: Any = av.CodecContext.create(codec.decoder, "r")
    context.extradata = stream.parameter_sets
    context.thread_count = 1
    frames = [frame for packet in stream.packets for frame in context.decode(av.Packet(packet))]
    frames += context.decode(None)
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])


def without_sei(packet: bytes) -> bytes:
    """Return an H.264 packet without its supplemental units, which decoding does not need."""
    parts = re.split(rb"(\x00\x00\x00\x01|\x00\x00\x01)", packet)
    units = zip(parts[1::2], parts[2::2], strict=True)
    return b"".join(code + unit for code, unit in units if unit[0] & 31 != _SEI)
