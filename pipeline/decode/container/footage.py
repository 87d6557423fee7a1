"""Choice of the stream that is decoded, and of its decoder.

The footage is the largest stream of more than one picture. Covers and thumbnails do not count,
whether the container marks them or not.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import islice

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipeline.decode.clip_rule import DecodeLimits
from pipeline.decode.damage import DecodeFault

NOT_FOOTAGE = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


MOST_PACKETS = 2000
"""Maximum number of packets, sound included, in which a second picture of a stream is searched
for: about 20 seconds."""


ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders of VP8 and VP9 that decode alpha; FFmpeg's own, which are faster, do not."""


def footage(container: InputContainer) -> list[VideoStream]:
    """Return the streams of video that are not marked as something else, the largest first.

    Raises:
        DecodeFault: `no_video_stream`.
    """
    found = [s for s in container.streams.video if not s.disposition & NOT_FOOTAGE]
    if not found:
        held = ", ".join(s.type for s in container.streams) or "nothing"
        raise DecodeFault("no_video_stream", f"{container.format.name} with {held} and no footage")
    return sorted(found, key=_pixels, reverse=True)


def needs_reading(streams: Sequence[VideoStream]) -> bool:
    """Return whether only the packets can tell which streams have more than one picture."""
    return len(streams) > 1 and streams[0].frames < 2 and not all(s.frames for s in streams)


def read_moving(container: InputContainer, streams: Sequence[VideoStream]) -> set[int]:
    """Return the indices of the streams of more than one picture; the container is used up."""
    counts: Counter[int] = Counter()
    try:
        for packet in islice(container.demux(), MOST_PACKETS):
            counts[packet.stream_index] += packet.size > 0
            if counts[streams[0].index] > 1:
                break
    except av.error.FFmpegError as error:
        if isinstance(error, MemoryError):
            raise
    return {stream.index for stream in streams if counts[stream.index] > 1}


def choose(
    container: InputContainer,
    streams: Sequence[VideoStream],
    moving: set[int],
    limits: DecodeLimits,
) -> VideoStream:
    """Return the stream that is decoded, and let the container skip all others.

    Args:
        container: of the streams.
        streams: as `footage` returns them.
        moving: indices of the streams of more than one picture; if empty, all streams count.
        limits: `max_pixels` is checked.

    Raises:
        DecodeFault: `unsupported`, if there is no decoder or the picture is too large.
    """
    moving = moving or {s.index for s in streams if s.frames > 1} or {s.index for s in streams}
    decodable = [s for s in streams if s.index in moving and s.codec_context is not None]
    if not decodable:
        raise DecodeFault("unsupported", f"no decoder for the video in {container.format.name}")
    stream = decodable[0]
    if _pixels(stream) > limits.max_pixels:
        raise DecodeFault(
            "unsupported",
            f"a picture of {stream.width}x{stream.height} has more than decode.max_pixels = "
            f"{limits.max_pixels}",
        )
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    return stream


def decoder(stream: VideoStream, limits: DecodeLimits) -> VideoCodecContext:
    """Return the decoder of a stream, on one thread; it hands `opaque` of a packet to the frame."""
    context = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and context.name in ALPHA_DECODERS:
        context = av.CodecContext.create(ALPHA_DECODERS[context.name], "r")
    context.copy_opaque = True
    context.thread_count = 1
    context.thread_type = "NONE"
    context.options = {"max_pixels": str(limits.max_pixels)}
    return context


def _pixels(stream: VideoStream) -> int:
    return stream.width * stream.height if stream.codec_context is not None else 0
