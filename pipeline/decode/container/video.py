"""Demux and decode: a file object in, frames with their times out, up to the first damage.

FFmpeg gets a file object, never a name, and cannot open anything else. No protocol is allowed. Of
its demuxers only video containers are allowed, not those that list other files (HLS, DASH, concat,
image sequences). One thread reads one stream, see `footage.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from itertools import chain, islice, pairwise
from typing import BinaryIO, TypeAlias

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.format import Flags as FormatFlags
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decode import damage
from pipeline.decode.clip_rule import DecodeLimits
from pipeline.decode.container.file_structure import missing_end
from pipeline.decode.container.footage import choose, decoder, footage, needs_reading, read_moving
from pipeline.decode.container.timeline import RESTART_S, Beginning, DecodingClock, Timeline
from pipeline.decode.container.transport_stream import PACKET, breaks_picture
from pipeline.decode.damage import DecodeFault
from pipeline.decode.pixels.declared import Declared, declared, positive
from pipeline.decode.sampling import DisplayedFrame

CONTAINERS = (
    "3gp,apng,asf,av1,avi,avs2,avs3,cavsvideo,dirac,dv,flv,gif,gxf,h261,h263,h264,hevc,ivf,m4v,"
    "matroska,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,swf,vc1,vvc,wtv,yuv4mpegpipe"
)


JOINABLE = "mpegts"
"""The container whose recordings can start anywhere: damage before the first picture is ignored."""


CONCEALING = ("h264", "mpeg1video", "mpeg2video", "mpeg4")
"""Decoders that report a picture whose last part is missing."""


SEEKABLE = ("mov,mp4", "matroska,webm")
"""Containers whose index finds a picture by its time; others are read from their beginning."""


CUES = "matroska"
"""Container whose index is sorted by time, whatever the order in the file."""


READ_BYTES = 1 << 18


VideoPacket: TypeAlias = "Packet[VideoStream]"


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
        file: BinaryIO,
        logs: list[damage.Log],
        limits: DecodeLimits,
        says: Declared,
    ) -> None:
        assert stream.time_base is not None
        self._container = container
        self._stream = stream
        self._context = decoder(stream, limits)
        self._time_base = stream.time_base
        self._file = file
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
        self.begins_s = _begins_s(container, stream)
        """Beginning of the file in seconds of presentation time; the times of spans count from it.
        It is the beginning of the pictures, or of a sound that begins earlier."""
        # The first messages concern the opening, in which FFmpeg reads a short file to its end.
        self._cut_at_open = damage.cut_short(logs, container.format.name)
        self._packets = 0
        self._tolerated: DecodeFault | None = None
        self._sought = self._seeking = False

    def seek(self, time_s: Fraction, span_s: Fraction) -> bool:
        """Seek to the last key picture before a time; return False if that is not reliable.

        It is reliable if every picture before the key picture is shown before it, and too early for
        a span. Call it before `frames`, which then start at the key picture.

        Args:
            time_s: time at which the seek aims.
            span_s: beginning of the span.
        """
        base, slack = self._time_base, self.nominal_s / 2
        if not self._container.format.name.startswith(SEEKABLE):
            return False
        try:
            key = self._packet_at(time_s)
            if key is None or key.pts is None or not key.is_keyframe:
                return False
            # Cues are sorted by time. A clock that restarted leaves them out of the file's order.
            if self._container.format.name.startswith(CUES):
                places = [entry.pos for entry in self._stream.index_entries]
                if places != sorted(places):
                    return False
            packet = self._packet_at(key.pts * base - RESTART_S)
            while packet is not None and (packet.pos, packet.dts) != (key.pos, key.dts):
                stamp = packet.pts
                if stamp is not None and (stamp >= key.pts or stamp * base + slack >= span_s):
                    return False
                packet = next(self._demuxer, None)
            self._container.seek(int(time_s / base), stream=self._stream)
        except av.error.FFmpegError as error:
            explain(error)  # raises an error that is not about seeking
            return False
        self._sought = self._seeking = True
        return True

    def _packet_at(self, time_s: Fraction) -> "VideoPacket | None":
        self._container.seek(int(time_s / self._time_base), stream=self._stream)
        self._demuxer = self._container.demux(self._stream)
        return next(self._demuxer, None)

    def frames(self, progress: Callable[[], None]) -> Iterator[DisplayedFrame[VideoFrame]]:
        """Yield every frame that is displayed, in order.

        Its `opaque` is a list of the shape of its pixel, as the coded stream says it.

        Args:
            progress: called for each packet and each frame.

        Raises:
            DecodeFault: at the first damage that `DecodeLimits.damage` does not allow, or at the
                end if the file lacks its end or gave no frame.
        """
        timeline = Timeline(self._time_base, self.nominal_s, self._sought)
        end: Fraction | None = None
        for shown in timeline.displayed(self._decode(progress)):
            gap = max(shown.duration_s, shown.start_s - (shown.start_s if end is None else end))
            if gap > self._limits.max_gap_s:
                raise DecodeFault(
                    "corrupt",
                    f"the timestamps leave {float(gap):.1f} s to one frame at "
                    f"{float(shown.start_s):.2f} s, more than decode.max_gap_s = "
                    f"{self._limits.max_gap_s:g}",
                )
            end = shown.end_s
            yield shown
        if end is None:
            detail = f"{self._packets} packets, and not one frame in them"
            raise self._tolerated or self._cut_at_open or DecodeFault("no_frames", detail)
        if self._limits.damage != "keep" and (found := self._missing_end()):
            raise DecodeFault(found.reason, found.detail)

    def begin_span(self) -> None:
        """After a seek, tolerate damage again: the frames from here on belong to the span."""
        self._seeking = False

    def _missing_end(self) -> DecodeFault | None:
        name, stream = self._container.format.name, self._stream
        lost = missing_end(name, self._file, stream.id, stream.index_entries)
        return self._cut_at_open or (DecodeFault("truncated", lost) if lost else None)

    def _decode(self, progress: Callable[[], None]) -> Iterator[VideoFrame]:
        """Yield the frames from the first key picture on, with times of one clock."""
        context, form = self._context, self._container.format
        speakers = (context.codec.name, form.name)
        clock = DecodingClock(self._time_base, self.nominal_s)
        jumps = bool(FormatFlags(form.flags) & FormatFlags.ts_discont)
        any_frame, ended, begin = False, False, Beginning()
        demuxer = self._container.demux(self._stream)
        self._logs.clear()
        while True:
            found: DecodeFault | None = None
            frames: list[VideoFrame] = []
            try:
                packet = next(demuxer, None)
                progress()
                if packet is None:
                    ended = True
                    frames = context.decode(None)
                elif packet.size:  # an empty packet is the time in which the last picture stays
                    self._packets += 1
                    self._require_clear(packet)
                    if packet.is_corrupt and self._limits.damage != "keep":
                        ahead = list(islice(demuxer, 2))
                        demuxer = chain(ahead, demuxer)
                        found = self._suspicion(packet, [p for p in ahead if p.size])
                    if jumps and packet.dts is not None:
                        shift = clock.shift(packet.dts, packet.duration)
                        packet.dts += shift
                        packet.pts = None if packet.pts is None else packet.pts + shift
                    begin.packet(packet)
                    if not found:
                        packet.opaque = aspect = []  # the decoder hands it on to the frame
                        frames = context.decode(packet)
                        aspect.append(positive(context.sample_aspect_ratio))
            except av.error.FFmpegError as error:
                known = explain(error)  # raises lack of memory, so it comes first
                found = found or damage.in_log(self._logs, speakers) or known
            found = found or damage.in_log(self._logs, speakers)
            if any(frame.is_corrupt for frame in frames):
                found = found or DecodeFault("corrupt", "a frame is flagged as damaged")
            if found:
                self._require_room()
                if not self._tolerates(found, any_frame, begin):
                    raise DecodeFault(found.reason, found.detail)  # new: `found` keeps no frames
                self._tolerated = self._tolerated or DecodeFault(found.reason, found.detail)
            self._logs.clear()
            for frame in frames:
                if begin.shows(frame):
                    any_frame = True
                    progress()
                    yield frame
            if ended:
                return

    def _tolerates(self, found: DecodeFault, any_frame: bool, begin: Beginning) -> bool:
        if self._seeking or found.reason == "decode_memory":
            return False
        if self._limits.damage == "keep":
            return True
        if self._container.format.name == JOINABLE and not any_frame:
            return True
        return self._limits.damage == "decoder" and not begin.has_key

    def _suspicion(self, packet: VideoPacket, ahead: list[VideoPacket]) -> DecodeFault | None:
        """Return the fault that a packet marked as corrupt proves, from the two packets after it.

        In a transport stream the mark means that a counter jumps before the second packet ahead. No
        fault is a jump between two pictures that leaves no room for another, or after which a key
        picture begins. In other containers the packet is incomplete.
        """
        if self._container.format.name == JOINABLE and self._limits.damage == "decoder":
            key = len(ahead) == 2 and ahead[1].is_keyframe
            gap = any(self._room_between(*pair) for pair in pairwise((packet, *ahead)))
            if packet.pos is not None and (key or not gap):
                end = (ahead[1].pos or 0) + PACKET if len(ahead) == 2 else self._container.size
                trusted = key and self._context.codec.name in CONCEALING
                if not breaks_picture(self._read(packet.pos, end), trusted=trusted):
                    return None
        return DecodeFault(
            "corrupt" if ahead else "truncated",
            f"the packet at byte {packet.pos} is damaged or incomplete",
        )

    def _read(self, begin: int, end: int) -> bytes:
        """Read bytes of the file while FFmpeg reads it elsewhere."""
        place = self._file.tell()
        self._file.seek(begin)
        data = self._file.read(max(0, end - begin))
        self._file.seek(place)
        return data

    def _room_between(self, packet: VideoPacket, following: VideoPacket) -> bool:
        """Return whether the clock leaves room for a picture between two packets."""
        if packet.dts is None or following.dts is None:
            return True
        length_s = (packet.duration or 0) * self._time_base or self.nominal_s
        return (following.dts - packet.dts) * self._time_base >= length_s + self.nominal_s / 2

    def _require_clear(self, packet: VideoPacket) -> None:
        if packet.has_sidedata("encryption_info"):
            raise DecodeFault("unsupported", "the video is encrypted, and there is no key")

    def _require_room(self) -> None:
        """Raise MemoryError if there is no room for a picture: lack of memory can look like damage.

        Some decoders do not report a failed allocation, and only miss the picture later.
        """
        np.empty(4 * self._stream.width * self._stream.height, np.uint8)


def container_options(limits: DecodeLimits) -> dict[str, str]:
    """Return the options with which FFmpeg opens a hostile file."""
    return {
        "protocol_whitelist": "none",
        "format_whitelist": CONTAINERS,
        "max_pixels": str(limits.max_pixels),
    }


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
    options = container_options(limits)
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
            yield Video(container, stream, file, logs, limits, declared(container, stream, file))


def _opened(file: BinaryIO, options: dict[str, str], logs: list[damage.Log]) -> InputContainer:
    file.seek(0)
    logs.clear()
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
    for text in texts:
        if any(words in text for words in damage.CUT_SHORT):
            return DecodeFault("truncated", text)
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


def _begins_s(container: InputContainer, stream: VideoStream) -> Fraction:
    """Return when a file begins: with its pictures, or with a sound that begins before them.

    A sound that begins before zero does so for its decoder, and is heard from zero on.
    """
    begins = (stream.start_time or 0) * (stream.time_base or Fraction(0))
    for sound in container.streams.audio:
        if sound.start_time is not None and sound.time_base is not None:
            begins = min(begins, max(Fraction(0), sound.start_time * sound.time_base))
    return begins
