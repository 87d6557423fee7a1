"""Demux and decode: a file object in, frames with their times out, up to the first damage.

FFmpeg gets a file object, never a name, and cannot open anything else. No protocol is allowed. Of
its demuxers only video containers are allowed, not those that list other files (HLS, DASH, concat,
image sequences). One thread reads one stream, see `footage.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from typing import Any, BinaryIO

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decode import damage
from pipeline.decode.clip_rule import DecodeLimits
from pipeline.decode.damage import DecodeFault
from pipeline.decode.declared import Declared, declared, positive
from pipeline.decode.footage import choose, decoder, footage, needs_reading, read_moving
from pipeline.decode.sampling import DisplayedFrame
from pipeline.decode.timeline import Timeline

CONTAINERS = (
    "3gp,apng,asf,av1,avi,avs2,avs3,cavsvideo,dirac,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,m4v,"
    "matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,swf,vc1,vvc,wtv,yuv4mpegpipe"
)


JOINABLE = "mpegts"
"""The container whose recordings can start anywhere: damage before the first picture is ignored."""


DECLARES_LENGTH = ("matroska,webm", "avi", "flv", "asf")
"""Containers whose header states a measured duration, not one estimated from the file size."""


SEEKABLE = ("mov,mp4", "matroska,webm")
"""Containers whose index finds a picture by its time; others are read from their beginning."""


READ_BYTES = 1 << 18


class SourceFile:
    """The three calls that FFmpeg may make on the file, under a neutral name."""

    name = "video"

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell


class Video:
    """One open video. Made by `open_video`."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        logs: list[damage.Log],
        limits: DecodeLimits,
        says: Declared,
    ) -> None:
        self._container = container
        self._stream = stream
        self._context = decoder(stream, limits)
        self._logs = logs
        self._limits = limits
        rate = stream.guessed_rate or stream.average_rate
        sane = rate is not None and Fraction(1, 100) <= rate <= 1000
        self.nominal_s = 1 / Fraction(rate) if rate is not None and sane else Fraction(1, 25)
        """Usual duration of a frame in seconds; 1/25 if the container gives no plausible rate."""
        self.source_fps = float(stream.average_rate or 1 / self.nominal_s)
        """Average frame rate that the container declares; otherwise the usual rate."""
        self.declared = says
        """What the container says of the pictures."""
        begins = stream.start_time or 0
        self.begins_s = begins * (stream.time_base or Fraction(0))
        """Presentation time of the beginning, in seconds, as the container declares it."""
        self._sought = False

    def seek(self, time_s: Fraction) -> bool:
        """Seek to the last key picture before a time; return False if the index is not reliable.

        Call it before `frames`, which then start there and are not compared with the duration.
        """
        assert self._stream.time_base is not None
        if not self._container.format.name.startswith(SEEKABLE):
            return False
        try:
            self._container.seek(int(time_s / self._stream.time_base), stream=self._stream)
        except av.error.FFmpegError as error:
            explain(error)  # raises an error that is not about seeking
            return False
        self._sought = True
        return True

    def frames(self, progress: Callable[[], None]) -> Iterator[DisplayedFrame[VideoFrame]]:
        """Yield every frame that is displayed, in order.

        Its `opaque` is a list of the shape of its pixel, as the coded stream says it.

        Args:
            progress: called for each packet and each frame.

        Raises:
            DecodeFault: at the first damage, or at the end if the file is shorter than it
                declares or gave no frame.
        """
        assert self._stream.time_base is not None
        timeline = Timeline(self._stream.time_base, self.nominal_s)
        origin: Fraction | None = None
        end = Fraction(0)
        packets = 0
        for frame in self._decode(progress):
            if isinstance(frame, int):
                packets = frame
                continue
            start, length = timeline.display_time(frame.pts, frame.dts, frame.duration)
            if origin is None and self._sought and frame.pts is None:
                raise DecodeFault("corrupt", "a key picture without its time")
            if origin is None:
                origin = end = start
            for gap in (start - end, length):
                if gap > self._limits.max_gap_s:
                    raise DecodeFault(
                        "corrupt",
                        f"the timestamps leave {float(gap):.1f} s to one frame at "
                        f"{float(start):.2f} s, more than decode.max_gap_s",
                    )
            end = start + length
            yield DisplayedFrame(frame, start, length)
        self._check_end(packets, None if origin is None else end - origin)

    def _decode(self, progress: Callable[[], None]) -> Iterator[VideoFrame | int]:
        """Yield the frames, then the number of packets that they came in."""
        packets, any_frame = 0, False
        speakers = (self._context.codec.name, self._container.format.name)
        self._logs.clear()
        demuxer = self._container.demux(self._stream)
        while True:
            found: DecodeFault | None = None
            frames: list[VideoFrame] = []
            try:
                packet = next(demuxer, None)
                progress()
                if packet is not None:
                    packets += packet.size > 0 or packet.dts is not None
                    if packet.is_corrupt:
                        found = self._corrupt_packet(packet)
                    else:
                        packet.opaque = aspect = []  # the decoder hands it on to the frame
                        frames = self._context.decode(packet)
                        aspect.append(positive(self._context.sample_aspect_ratio))
            except av.error.FFmpegError as error:
                known = explain(error)  # raises lack of memory, so it comes first
                found = found or damage.in_log(self._logs, speakers) or known
            found = found or damage.in_log(self._logs, speakers)
            if any(frame.is_corrupt for frame in frames):
                found = found or DecodeFault("corrupt", "a frame is flagged as damaged")
            if found and (any_frame or self._container.format.name != JOINABLE):
                self._require_room()
                raise DecodeFault(found.reason, found.detail)  # new: `found` keeps no frames alive
            self._logs.clear()
            if packet is None:
                break
            for frame in frames:
                any_frame = True
                progress()
                yield frame
        yield packets

    def _require_room(self) -> None:
        """Raise MemoryError if there is no room for a picture: lack of memory can look like damage.

        Some decoders do not report a failed allocation, and only miss the picture later.
        """
        np.empty(4 * self._stream.width * self._stream.height, np.uint8)

    def _corrupt_packet(self, packet: Any) -> DecodeFault:
        at_end = packet.pos is not None and packet.pos + packet.size >= self._container.size
        return DecodeFault(
            "truncated" if at_end else "corrupt",
            f"the packet at byte {packet.pos} is damaged or incomplete",
        )

    def _check_end(self, packets: int, shown_s: Fraction | None) -> None:
        found: DecodeFault | None = None
        if shown_s is None:
            found = DecodeFault("no_frames", f"{packets} packets, and not one frame in them")
        elif self._sought:
            return
        elif self._container.format.name.startswith("mov,"):
            # A fragmented file has no index of its own; its fragments are checked as they are read.
            if self._stream.frames > 0:
                found = damage.missing_packets(packets, len(self._stream.index_entries))
        elif self._container.format.name in DECLARES_LENGTH:
            declared = self._declared_s()
            found = damage.missing_time(shown_s, declared) if declared else None
        if found:
            raise DecodeFault(found.reason, found.detail)

    def _declared_s(self) -> Fraction | None:
        """Return the stream's duration in seconds, if the header declares it."""
        stream = self._stream
        if stream.duration is not None and stream.time_base is not None:
            return stream.duration * stream.time_base
        if (text := stream.metadata.get("DURATION")) and (tagged := parse_clock(text)) is not None:
            return tagged
        if len(self._container.streams) == 1 and self._container.duration is not None:
            return Fraction(self._container.duration, 1_000_000)
        return None


@contextmanager
def open_video(file: BinaryIO, limits: DecodeLimits) -> Iterator[Video]:
    """Open a video and choose its stream.

    Args:
        file: readable and seekable, at its beginning.
        limits: `max_pixels` is checked before anything is decoded. The decoder also checks it, for
            pictures that change their size.

    Raises:
        DecodeFault: no container, no video stream, no decoder, or too large a picture.
    """
    av.logging.set_level(av.logging.ERROR)
    # Otherwise a message that repeats the last one, perhaps of another video, is dropped.
    av.logging.set_skip_repeated(False)
    options = {
        "protocol_whitelist": "none",
        "format_whitelist": CONTAINERS,
        "max_pixels": str(limits.max_pixels),
    }
    with av.logging.Capture() as logs:
        if not file.seek(0, 2):
            raise DecodeFault("not_a_video", "the file is empty")
        with ExitStack() as stack:
            container = stack.enter_context(_opened(file, options, logs))
            streams, moving = footage(container), set[int]()
            if needs_reading(streams):
                moving = read_moving(container, streams)
                container.close()
                container = stack.enter_context(_opened(file, options, logs))
                streams = footage(container)
            stream = choose(container, streams, moving, limits)
            yield Video(container, stream, logs, limits, declared(container, stream, file))


def _opened(file: BinaryIO, options: dict[str, str], logs: list[damage.Log]) -> InputContainer:
    file.seek(0)
    try:
        container: InputContainer = av.open(
            SourceFile(file),
            mode="r",
            options=options,
            metadata_errors="replace",
            buffer_size=READ_BYTES,
        )
    except av.error.FFmpegError as error:
        raise _why_not_open(error, logs) from error
    # PyAV lets FFmpeg invent missing timestamps; for AVI they are wrong.
    container.flags &= ~av.container.Flags.gen_pts.value
    return container


def _why_not_open(error: av.error.FFmpegError, logs: list[damage.Log]) -> DecodeFault:
    texts = [damage.flat(message) for _, _, message in logs]
    if any("moov atom not found" in text for text in texts):
        return DecodeFault(
            "truncated", "an MP4 without its index (moov): cut short, or never finished"
        )
    if any("not on whitelist" in text for text in texts):
        return DecodeFault("not_a_video", "a playlist or a list of files, not a container of video")
    if isinstance(error, av.error.InvalidDataError):
        return DecodeFault("not_a_video", "; ".join(texts) or "no container format was recognised")
    return explain(error)


def explain(error: av.error.FFmpegError) -> DecodeFault:
    """Return the fault for an error that FFmpeg returned.

    Raises:
        MemoryError: FFmpeg ran out of memory, which is not a fault of the file.
    """
    if isinstance(error, MemoryError):
        raise MemoryError("FFmpeg could not allocate memory") from error
    said = error.log[1] if error.log else None
    detail = damage.flat(f"{error.strerror}" + (f" ({said[1]}: {said[2]})" if said else ""))
    if isinstance(error, av.error.PatchWelcomeError | NotImplementedError | av.error.LookupError):
        return DecodeFault("unsupported", detail)
    if isinstance(error, av.error.InvalidDataError):
        return DecodeFault("corrupt", detail)
    return DecodeFault("decode_error", detail)


def parse_clock(text: str) -> Fraction | None:
    """Read `00:00:02.040000000`, the form of Matroska's DURATION tag; None for other text."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    except (ValueError, ZeroDivisionError):
        return None
