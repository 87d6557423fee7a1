"""The sound of a video on the clock of its pictures: samples of any time span.

The track is read in a second pass over the same file, as far as the clips need it. Clips come in
the order of their ends, and may overlap. So the samples of the longest clip so far are held, and
the track is read again only for a clip that begins before them. Each run of
frames without a gap is resampled from its own beginning. Its samples are placed by presentation
time on one grid, on which sample k is at k / rate seconds. What the track does not cover is
silence.

Nothing that is wrong with a track costs its video: sound that cannot be decoded is silence. A
track that cannot be opened gives no sound.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from os import SEEK_CUR, SEEK_END, SEEK_SET, fstat, pread
from typing import Any, Final

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.format import Flags as FormatFlags
from av.stream import Discard
from numpy.typing import NDArray

from pipeline.decode.clip_rule import SoundRule
from pipeline.decode.container.timeline import DecodingClock
from pipeline.errors import one_line

DECODERS: Final = (
    *(
        "aac",
        "aac_latm",
        "ac3",
        "alac",
        "amrnb",
        "amrwb",
        "eac3",
        "flac",
        "libopus",
        "mp1",
        "mp1float",
    ),
    *("mp2", "mp2float", "mp3", "mp3float", "opus", "vorbis", "wmav1", "wmav2"),
)
"""Decoders that may see a file's sound, beside those of PCM."""

JOIN_S: Final = Fraction(1, 200)
"""Seconds by which a frame may begin apart from the end of the one before it and still continue it.
Containers round times, most of them to a millisecond."""

SEEK_S: Final = 30
"""Seconds from the beginning of the track after which a first span is reached by a seek."""

PREROLL_S: Final = 1
"""Seconds before a span at which its seek aims, because decoders need some frames to settle."""

_LAYOUTS: Final = {1: "mono", 2: "stereo"}


class _Reread:
    """A second reader of an open file, with a position of its own."""

    name = "video"

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, b"" at the end."""
        data = pread(self._fd, size, self._at)
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move the position."""
        base = {SEEK_SET: 0, SEEK_CUR: self._at, SEEK_END: fstat(self._fd).st_size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at


@dataclass(frozen=True, slots=True)
class ClipSound:
    """The sound of one clip."""

    samples: NDArray[np.int16]
    """`[n, channels]`; the first is at the clip's beginning."""
    silence: int
    """Number of samples that the track does not cover."""
    source_rate: int
    """Number of samples per second of the track."""
    source_channels: int
    """Number of channels of the track."""


class SoundTrack:
    """The sound of one video.

    Args:
        fd: descriptor of the video's file; its position is not used.
        rule: form of the samples.
        options: options with which containers are opened.
        progress: called for each packet.
    """

    def __init__(
        self, fd: int, rule: SoundRule, options: dict[str, str], progress: Callable[[], None]
    ) -> None:
        self._fd = fd
        self._rule = rule
        self._options = options
        self._progress = progress
        self._open: _OpenTrack | None = None
        self._begins_s: Fraction | None = None
        self._longest = 0
        self.failed: str | None = None
        """Why there is no sound, or no more; empty if the video has no track; None if there is."""

    def between(self, start_s: Fraction, end_s: Fraction) -> ClipSound | None:
        """Return the sound of a clip; None if the video has none that can be decoded."""
        first = round(start_s * self._rule.rate)
        count = self._rule.samples(float(start_s), float(end_s))  # of the times as they are stored
        if self.failed is not None:
            return None
        with av.logging.Capture():  # of its own: these messages are not about the pictures
            try:
                if self._open is None or first < self._open.held_from:
                    self.close()
                    # The same beginning as before, so that the samples are the same.
                    if self._begins_s is None or start_s < self._begins_s:
                        self._begins_s = start_s
                    self._open = _OpenTrack(
                        self._fd, self._rule, self._options, self._progress, self._begins_s
                    )
                    self._open.held_from = first
                self._longest = max(self._longest, count)
                return self._open.take(first, count, self._longest)
            except _NoTrack as error:
                self.failed = str(error)
            except Exception as error:  # a track can be as broken as it likes
                self.failed = f"from {float(start_s):.3f} s on: {one_line(error)}"
            return None

    def close(self) -> None:
        """Close the file's container."""
        if self._open is not None:
            self._open.close()
            self._open = None


class _NoTrack(Exception):
    """The video has no sound that can be decoded; the text says why, if it has a track."""


class _OpenTrack:
    """Decodes a track forward, and holds the samples that the next clip can need."""

    def __init__(
        self,
        fd: int,
        rule: SoundRule,
        options: dict[str, str],
        progress: Callable[[], None],
        start_s: Fraction,
    ) -> None:
        self._rule = rule
        self._progress = progress
        self._stack = ExitStack()
        container = self._stack.enter_context(
            av.open(_Reread(fd), mode="r", options=options, metadata_errors="replace")
        )
        container.flags &= ~av.container.Flags.gen_pts.value
        stream = container.streams.best("audio")
        if stream is None:
            raise _NoTrack
        context = stream.codec_context
        name = None if context is None else context.codec.name
        if name is None or not (name in DECODERS or name.startswith("pcm_")):
            raise _NoTrack(f"the decoder {name} is not among those that are allowed")
        context.thread_count = 1
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        self.source_rate, self.source_channels = context.sample_rate, context.channels
        self._time_base = stream.time_base
        jumps = bool(FormatFlags(container.format.flags) & FormatFlags.ts_discont)
        self._clock = DecodingClock(self._time_base, Fraction(1, 50)) if jumps else None
        begins_s = (stream.start_time or 0) * self._time_base
        seekable = container.format.name.startswith(("mov,mp4", "matroska,webm"))
        if seekable and start_s - begins_s > SEEK_S:
            container.seek(int((start_s - PREROLL_S) / self._time_base), stream=stream)
        self._samples = self._placed(container, stream, context)
        self._held: list[tuple[int, NDArray[np.int16]]] = []
        """Place on the grid, and samples, in order and without overlap."""
        self.held_from = 0
        """Place of the first sample that can still be asked for."""

    def close(self) -> None:
        self._stack.close()

    def take(self, first: int, count: int, longest: int) -> ClipSound:
        """Return the samples [first, first + count), and hold the last `longest` ones."""
        end = first + count
        self.held_from = max(self.held_from, end - longest)
        while not self._held or self._held[-1][0] + len(self._held[-1][1]) < end:
            following = next(self._samples, None)
            if following is None:
                break
            if following[0] + len(following[1]) > self.held_from:
                self._held.append(following)
        out = np.zeros((count, self._rule.channels), np.int16)
        covered = 0
        for place, samples in self._held:
            low, high = max(place, first), min(place + len(samples), end)
            if low < high:
                out[low - first : high - first] = samples[low - place : high - place]
                covered += high - low
        self._held = [(p, s) for p, s in self._held if p + len(s) > self.held_from]
        return ClipSound(out, count - covered, self.source_rate, self.source_channels)

    def _placed(
        self, container: Any, stream: Any, context: Any
    ) -> Iterator[tuple[int, NDArray[np.int16]]]:
        """Yield runs of samples with their places; each begins where the last ended, or later."""
        resampler: AudioResampler | None = None
        form: tuple[str, str, int] | None = None
        place = end = 0
        """Place of the next sample of this run; place from which samples are free."""
        following_s: Fraction | None = None

        def cut(frames: list[Any]) -> Iterator[tuple[int, NDArray[np.int16]]]:
            nonlocal place, end
            for frame in frames:
                samples = frame.to_ndarray().reshape(-1, self._rule.channels)
                low = max(place, end)
                if low < place + len(samples):
                    yield low, samples[low - place :]
                    end = place + len(samples)
                place += len(samples)

        for frame in self._decoded(container, stream, context):
            now = (frame.format.name, frame.layout.name, frame.sample_rate)
            begins_s = following_s
            if frame.pts is not None:
                own_s = frame.pts * (frame.time_base or self._time_base)
                if following_s is None or abs(own_s - following_s) > JOIN_S:
                    begins_s = own_s
            begins_s = Fraction(0) if begins_s is None else begins_s
            if resampler is None or now != form or begins_s != following_s:
                if resampler is not None:
                    yield from cut(resampler.resample(None))
                layout = _LAYOUTS[self._rule.channels]
                resampler, form = AudioResampler("s16", layout, self._rule.rate), now
                place = round(begins_s * self._rule.rate)
                run_s, read = begins_s, 0
            read += frame.samples
            following_s = run_s + Fraction(read, frame.sample_rate)
            frame.pts = None
            yield from cut(resampler.resample(frame))
        if resampler is not None:
            yield from cut(resampler.resample(None))

    def _decoded(self, container: Any, stream: Any, context: Any) -> Iterator[Any]:
        """Yield the frames of the track; packets that cannot be decoded are left out."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
                self._progress()
                if packet is None:
                    return
                if packet.size and self._clock is not None and packet.dts is not None:
                    shift = self._clock.shift(packet.dts, packet.duration)
                    packet.dts += shift
                    packet.pts = None if packet.pts is None else packet.pts + shift
                frames = context.decode(packet if packet.size else None)
            except av.error.InvalidDataError:
                continue
            except av.error.EOFError:
                return
            yield from frames
