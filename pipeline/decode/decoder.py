"""The caller's side of decoding: samples in, clips out, a broken video as an error of that video.

This module does not know how frames are made; a decoder process makes them. It is reused between
samples. It is replaced after it died, was killed, ran out of memory or kept too much of it. If it
dies or falls silent, the sample is retried once from its beginning, and the clips that were already
yielded are skipped.
"""

import logging
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from io import FileIO
from itertools import islice
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from pipeline.decode.buckets import shortest
from pipeline.decode.child.fork_server import anonymous_file
from pipeline.decode.child.process import Child, ChildDied
from pipeline.decode.child.protocol import ProtocolError
from pipeline.decode.clip_rule import ClipRule, DecodeLimits, SoundRule
from pipeline.decode.damage import flat
from pipeline.errors import StoreError, one_line
from pipeline.quarantine import DROPPED, REASONS, QuarantineError
from pipeline.records import Clip, Sample, VideoFacts
from pipeline.storage.local_disk import blames_file

KEPT_SHARE = 8
"""A process that keeps more than this part (1/8) of `memory_mb` after a video is replaced, so that
one video cannot change what happens to the next."""


ATTEMPTS = 2
"""Maximum number of processes that one video may cost. The first may die of a cause outside the
video: the kernel needed memory, an operator killed it, the machine was suspended."""


_CLIP = TypeAdapter(Clip)
"""Checks the types of a header's fields; a decoder process under hostile control may send any."""


_FACTS = TypeAdapter(VideoFacts)

_LAST = ("end", "fail", "unread")
"""Kinds of the last message about a sample."""


_log = logging.getLogger(__name__)


class Decoder:
    """Decodes one sample after another. A context manager; not for several threads at once.

    Args:
        rules: the clips wanted. Several rules differ only in their shape; each video gets the one
            that suits it (`pipeline.decode.buckets`).
        limits: when a video is given up.
        sound: form of the clips' sound, which becomes side columns; None leaves it out.
        numbers: Arrow type of each column of numbers, by name, which the rules make the decoder
            process send.
    """

    def __init__(
        self,
        rules: ClipRule | Sequence[ClipRule],
        limits: DecodeLimits | None = None,
        sound: SoundRule | None = None,
        numbers: Mapping[str, str] | None = None,
    ) -> None:
        self._numbers = dict(numbers or {})
        self._rules = (rules,) if isinstance(rules, ClipRule) else tuple(rules)
        self._limits = limits or DecodeLimits()
        self._sound = sound
        self._child: Child | None = None
        self._busy = False
        """Whether the decoder process works on a sample."""
        self.shot_ends: list[float] = []
        """Ends of the shots of the last sample in seconds, as far as they are known, if the rules
        split it into shots."""
        self._job = {
            "rules": [asdict(rule) for rule in self._rules],
            "limits": asdict(self._limits),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the decoder process ahead of the first sample, and wait until it is ready.

        The first process takes seconds to import torch; any later one takes milliseconds.

        Raises:
            PipelineError: it cannot start.
        """
        if self._child is None:
            self._child = Child()

    @property
    def shortest(self) -> int:
        """Number of frames of a clip of the shortest bucket."""
        return shortest(self._rules)

    @property
    def limits_clips(self) -> bool:
        """Whether the number of a sample's clips is limited, so they come at its end."""
        return any(rule.max_per_sample is not None for rule in self._rules)

    @property
    def pid(self) -> int | None:
        """Process id of the decoder process; None if there is none now."""
        return None if self._child is None else self._child.pid

    def close(self) -> None:
        """End the decoder process. The Decoder can still be used; it then starts another."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        self._busy = False

    def decode(self, sample: Sample, unit: str) -> Iterator[tuple[Clip, NDArray[Any] | None]]:
        """Yield the clips of a sample as soon as each is complete; an image is one of one frame.

        A remainder that the rule's `short` drops comes last, as a clip without frames. The same
        bytes always give the same clips and the same outcome. If the caller stops early, or begins
        another call, the decoder process is killed.

        Yields:
            The clip, with its sound in `side` if that is stored, and its frames `[T, H, W, 3]` in
            [0, 255], uint8 or float32 as the rule says. T, H and W are those of one rule for the
            whole video. Where a rule leaves pictures whole, H and W are one size per video.
            Its `source_height` and `source_width` are those of the upright picture with square
            pixels; `source_fps` is the average rate that the container declares.

        Raises:
            QuarantineError: the video is broken or exceeds a limit; clips yielded before it are
                valid. The stage is `decode`, or `read` if the file cannot be opened.
            StoreError: the disk failed while the file was opened or read.
            PipelineError: the decoder process cannot start; no sample is the cause.
        """
        return self._answers(sample, unit)

    def facts(self, sample: Sample, unit: str) -> VideoFacts:
        """Return what the header and the first picture of a sample's file say; raises as `decode`.

        The rules and the sample's span have no effect.
        """
        found = list(self._answers(sample, unit, facts_only=True))
        if not found:
            raise QuarantineError("decode", "decode_crash", "the decoder process sent no answer")
        facts: VideoFacts = found[-1]
        return facts

    def _answers(self, sample: Sample, unit: str, *, facts_only: bool = False) -> Iterator[Any]:
        """Yield what decoder processes say of a sample: the clips with their frames, or facts."""
        with open_sample(sample) as file:
            given = 0
            # Two attempts with sound, and if both kill the process one without: a track may crash
            # its decoder, but it never costs the video.
            attempts = ATTEMPTS + (self._sound is not None)
            for attempt in range(1, attempts + 1):
                began = time.monotonic()
                sound = self._sound if attempt <= ATTEMPTS else None
                try:
                    with closing(self._attempt(file, sample, unit, sound, facts_only)) as answers:
                        for answer in islice(answers, given, None):
                            given += 1
                            yield answer
                    return
                except ChildDied as error:
                    _log.warning(
                        "%s/%s: attempt %d of %d: the decoder process has ended after %.1f s: %s",
                        *(unit, sample.key, attempt, attempts, time.monotonic() - began, error),
                    )
                    if attempt == attempts:
                        reason, detail = "decode_crash", f"the decoder process: {error}"
                        if error.timed_out:
                            limit = f"decode.timeout_s = {self._limits.timeout_s:g} s"
                            reason, detail = "decode_timeout", f"no progress for {limit}"
                        raise QuarantineError(
                            "decode", reason, detail, attempts=attempts
                        ) from error
                    file.seek(0)

    def _attempt(
        self, file: FileIO, sample: Sample, unit: str, sound: SoundRule | None, facts_only: bool
    ) -> Generator[Any, None, None]:
        """Yield what one process says of a sample; raise `ChildDied` if that ends."""
        finished = False
        child = None
        if self._busy:  # an earlier call that was not ended, and perhaps never is
            self.close()
        self._busy = True
        self.shot_ends = []
        job = self._job | {
            "span": None if sample.span is None else asdict(sample.span),
            "is_image": sample.is_image,
            "key": sample.key,
            "facts_only": facts_only,
            "sound": None if sound is None else asdict(sound),
        }
        try:
            child = self._submit(job, file.fileno())
            answer = "facts" if facts_only else "clip"
            while (header := self._next(child, (answer, *_LAST)))["kind"] == answer:
                if facts_only:
                    del header["kind"]
                    yield _FACTS.validate_python(header)
                    continue
                clip, frames = self._clip(child, header, sample, unit)
                if sound is not None and frames is not None:
                    clip = replace(clip, side=clip.side | self._side(child, clip, sound))
                yield clip, frames
            kept_mb = header.get("grown_mb")
            lean = isinstance(kept_mb, int) and kept_mb * KEPT_SHARE < self._limits.memory_mb
            finished = lean and header.get("reason") != "decode_memory"
            self._busy = False
            if not finished:
                _log.info(
                    "%s/%s: replacing the decoder process: it keeps %s MiB of decode.memory_mb = %d"
                    " after this video (%s)",
                    *(unit, sample.key, kept_mb, self._limits.memory_mb),
                    header.get("reason", "decoded"),
                )
        except (ProtocolError, KeyError, TypeError, ValueError) as error:
            detail = f"the decoder process violates the protocol: {one_line(error)}"
            _log.warning("%s/%s: the decoder process was killed: %s", unit, sample.key, detail)
            raise QuarantineError("decode", "decode_crash", detail) from error
        finally:
            if not finished and child in (None, self._child):
                self.close()
        if header["kind"] == "unread":
            raise StoreError(f"{sample.video_name}: {flat(str(header.get('detail')))}")
        if header["kind"] == "fail":
            reason = str(header.get("reason"))
            raise QuarantineError(
                "decode",
                reason if reason in REASONS else "decode_error",
                flat(str(header.get("detail"))),
            )

    def _submit(self, job: dict[str, Any], fd: int) -> Child:
        """Hand over a job; a process that died idle is replaced, for no video is the cause."""
        self.start()
        assert self._child is not None
        try:
            self._child.submit(job, fd)
        except ChildDied as error:
            _log.warning("an idle decoder process has ended; starting another: %s", error)
            self._child = Child()
            self._child.submit(job, fd)
        return self._child

    def _next(self, child: Child, kinds: Sequence[str]) -> dict[str, Any]:
        while True:
            header = child.receive(self._limits.timeout_s)
            if header["kind"] in kinds:
                return header
            if header["kind"] == "shot":
                if not math.isfinite(end_s := float(header["end_s"])):
                    raise ProtocolError(f"a shot that ends at {end_s}")
                self.shot_ends.append(end_s)
            elif header["kind"] != "alive":
                raise ProtocolError(f"a message of kind {header['kind']!r}")

    def _clip(
        self, child: Child, header: dict[str, Any], sample: Sample, unit: str
    ) -> tuple[Clip, NDArray[Any] | None]:
        clip = _CLIP.validate_python(
            header | {"unit": unit, "key": "", "caption": None, "meta": None, "side": {}}
        )
        clip = replace(clip, key=sample.key, caption=sample.caption, meta=sample.meta)
        if clip.dropped:
            if clip.dropped not in DROPPED:
                raise ProtocolError(f"a clip that is dropped by {clip.dropped!r}")
            return clip, None
        clip = replace(clip, side=self._checked_numbers(header["numbers"]))
        if len(clip.frame_times) != clip.num_frames or not np.isfinite(clip.frame_times).all():
            raise ProtocolError(f"times of {len(clip.frame_times)} pictures")
        frames = np.empty(self._shape(header), np.dtype(self._rules[0].resize))
        child.receive_into(frames.data.cast("B"))
        return clip, frames

    def _checked_numbers(self, values: dict[str, Any]) -> dict[str, float | None]:
        """Return the numbers of a clip: each column once, null or in the range of its type."""
        if values.keys() != self._numbers.keys():
            raise ProtocolError(f"numbers {sorted(values)}, not {sorted(self._numbers)}")
        for name, value in values.items():
            kind = self._numbers[name]
            whole = kind.startswith("int")
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise ProtocolError(f"{name} = {value!r}, not a number of type {kind}")
            limits = np.iinfo(kind) if whole else np.finfo(kind)
            if not int(limits.min) <= value <= int(limits.max):
                raise ProtocolError(f"{name} = {value!r} is out of the range of {kind}")
        return values

    def _side(self, child: Child, clip: Clip, sound: SoundRule) -> dict[str, Any]:
        """Return the side columns of a clip from the message that follows it."""
        header = self._next(child, ("sound",))
        if header["bytes"] is None:
            if why := flat(str(header["detail"])):
                _log.info("%s: the clip has no sound: %s", clip.clip_id, why)
            return {}
        most = sound.most_bytes(sound.samples(clip.start_s, clip.end_s))
        size = int(header["bytes"])
        if not 0 <= size <= most:
            raise ProtocolError(f"a sound of {size} bytes")
        data = bytearray(size)
        child.receive_into(memoryview(data))
        numbers = ("audio_source_rate", "audio_source_channels", "audio_silence")
        values = {name: int(header[name]) for name in numbers}
        if any(not 0 <= value < 1 << 31 for value in values.values()):
            raise ProtocolError(f"a sound of {values}")
        return {"audio": bytes(data), **values}

    def _shape(self, header: dict[str, Any]) -> tuple[int, int, int, int]:
        frames = int(header["num_frames"])
        height, width = (int(side) for side in header["size"])
        if not any(self._fits(rule, frames, height, width) for rule in self._rules):
            raise ProtocolError(f"a clip of {frames} pictures of {height}x{width} pixels")
        return frames, height, width, 3

    def _fits(self, rule: ClipRule, frames: int, height: int, width: int) -> bool:
        if rule.fit == "crop":
            return (frames, height, width, 3) == rule.shape
        covers = height >= rule.height and width >= rule.width
        return frames == rule.frames and covers and height * width <= self._limits.max_pixels


def open_sample(sample: Sample) -> FileIO:
    """Return the sample's video as an open file at its beginning.

    Bytes go into an anonymous file in memory, which the decoder process reads without a copy.

    Raises:
        QuarantineError: `file_unreadable`, in the stage `read`.
        StoreError: the disk failed.
    """
    if isinstance(sample.video, str):
        try:
            return FileIO(sample.video)
        except OSError as error:
            detail = f"{sample.video}: {error.strerror}"
            if not blames_file(sample.video, error):
                raise StoreError(detail) from error
            raise QuarantineError("read", "file_unreadable", detail) from error
    file = anonymous_file()
    view = memoryview(sample.video)
    while view:
        view = view[file.write(view) :]
    file.seek(0)
    return file
