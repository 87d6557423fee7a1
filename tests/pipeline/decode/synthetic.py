"""Videos made on the spot, of which every pixel and timestamp is known."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.decode.sampling import DisplayedFrame, SampledFrame, Sampler
from pipeline.records import Sample

MS = Fraction(1, 1000)


def sample(video: bytes, key: str = "made") -> Sample:
    return Sample(key=key, video=video, video_name=f"{key}.mkv")


def sample_frames(
    source: Iterable[DisplayedFrame[Any]],
    interval_s: Fraction | None,
    nominal_s: Fraction,
    start_s: Fraction | None = None,
    end_s: Fraction | None = None,
) -> Iterator[SampledFrame[Any]]:
    """The frames of one sampler, which reads no more of the source than it needs."""
    sampler = Sampler[Any](interval_s, nominal_s, start_s, end_s)
    for shown in source:
        yield from sampler.push(shown)
        if sampler.ended:
            break
    yield from sampler.rest()


def encode(
    planes: Iterable[Sequence[NDArray[Any]]],
    *,
    pix_fmt: str,
    pts: Sequence[int] | None = None,
    time_base: Fraction = MS,
    rate: int = 25,
    container: str = "matroska",
    codec: str = "ffv1",
    colorspace: int = 2,
    color_range: int = 0,
    color_trc: int = 2,
    sample_aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
    prepare: Callable[[VideoStream], None] = lambda stream: None,
) -> bytes:
    """Encode frames given plane by plane; lossless unless another codec is asked for."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as target:
        stream: VideoStream | None = None
        for index, frame_planes in enumerate(planes):
            height, width = frame_planes[0].shape[:2]
            if stream is None:
                stream = target.add_stream(codec, rate=rate, options=options or {})
                stream.height, stream.width, stream.pix_fmt = height, width, pix_fmt
                context = stream.codec_context
                context.thread_count = 1
                context.time_base = time_base
                context.colorspace, context.color_range = colorspace, color_range
                context.color_trc = color_trc
                if sample_aspect:
                    context.sample_aspect_ratio = sample_aspect
                prepare(stream)
            frame = av.VideoFrame(width, height, pix_fmt)
            for plane, pixels in zip(frame.planes, frame_planes, strict=True):
                fill(plane, pixels)
            frame.colorspace, frame.color_range = colorspace, color_range
            frame.color_trc = color_trc
            frame.time_base = time_base
            frame.pts = pts[index] if pts else round(index / rate / time_base)
            target.mux(stream.encode(frame))
        assert stream is not None
        target.mux(stream.encode())
    return out.getvalue()


def fill(plane: Any, pixels: NDArray[Any]) -> None:
    rows = np.zeros((plane.height, plane.line_size), np.uint8)
    packed = np.ascontiguousarray(pixels).view(np.uint8).reshape(plane.height, -1)
    rows[:, : packed.shape[1]] = packed
    plane.update(rows.tobytes())


def grey(level: int, height: int = 32, width: int = 32) -> tuple[NDArray[Any], ...]:
    """Planes of one gray picture in full-range yuv444p: R = G = B = level."""
    neutral = np.full((height, width), 128, np.uint8)
    return np.full((height, width), level, np.uint8), neutral, neutral


def counting(count: int, **how: Any) -> bytes:
    """A video whose frame i has the grey level i."""
    return encode(
        (grey(i) for i in range(count)), pix_fmt="yuv444p", color_range=2, colorspace=1, **how
    )


def remux(video: bytes, container: str, **muxing: str) -> bytes:
    """Copy the packets of a video into another container, which may need to be written twice."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video"
        with (
            av.open(io.BytesIO(video)) as source,
            av.open(str(path), "w", format=container, options=muxing) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
        return path.read_bytes()
