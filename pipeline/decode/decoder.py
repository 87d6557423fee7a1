"""The caller's side of decoding: samples in, clips out, a broken video as an error of that video.

Knows nothing of how frames are made; keeps a child process for that. Between samples the child is
reused; after it died, was killed, ran out of memory or kept too much of it, the next sample gets a
new one. A sample whose child died or fell silent is tried once more from its beginning, and the
clips that were given already are not given again.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from io import FileIO
from itertools import islice
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.child_process import Child, ChildDied, anonymous_file
from pipeline.decode.clip_rule import ClipRule, DecodeLimits
from pipeline.decode.damage import one_line
from pipeline.decode.protocol import ProtocolError
from pipeline.quarantine import REASONS, QuarantineError
from pipeline.records import Clip, Sample

KEPT_SHARE = 8
"""A child that keeps more than this part (1/8) of `memory_mb` after a video is replaced, so that
what one video leaves behind cannot change what happens to the next."""


ATTEMPTS = 2
"""Children that one video may cost. The first may have died of what is not the video's: the kernel
that wanted memory, an operator, a machine that stood still."""


class Decoder:
    """Decodes one sample after another. A context manager; not for several threads at once.

    Args:
        rules: the clips wanted; several differ in their shape alone, and each video is cut by the
            one that suits it (`pipeline.decode.buckets`).
        limits: when to give a video up.
    """

    def __init__(
        self, rules: ClipRule | Sequence[ClipRule], limits: DecodeLimits | None = None
    ) -> None:
        self._rules = (rules,) if isinstance(rules, ClipRule) else tuple(rules)
        self._limits = limits or DecodeLimits()
        self._child: Child | None = None
        self._job = {
            "rules": [asdict(rule) for rule in self._rules],
            "limits": asdict(self._limits),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, *, wait: bool = False) -> None:
        """Start the child ahead of the first sample; it takes a second or two to import torch.

        Args:
            wait: until it can decode.
        """
        if self._child is None:
            self._child = Child()
        if wait:
            self._child.await_ready()

    def close(self) -> None:
        """End the child. The Decoder can still be used; it would start another."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def decode(self, sample: Sample, unit: str) -> Iterator[tuple[Clip, NDArray[Any] | None]]:
        """Yield the clips of a sample as soon as each is complete; an image is one of one frame.

        A remainder that the rule's `short` drops comes last, as a clip without frames. The same
        bytes always give the same clips and the same outcome. A caller that stops early costs the
        child its life.

        Yields:
            The clip, and its frames `[T, H, W, 3]` in [0, 255], uint8 or float32 as the rule says;
            T, H and W are those of one rule for the whole video; where a rule leaves pictures
            whole, H and W are one size per video.
            Its `source_height` and `source_width` are those of the upright picture with square
            pixels, `source_fps` the average rate that the container declares.

        Raises:
            QuarantineError: the video is broken or too much; the clips before it stand. The stage
                is `decode`, or `read` if the file cannot be opened.
            PipelineError: the child cannot be started; no sample is to blame.
        """
        with open_sample(sample) as file:
            given = 0
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    with closing(self._attempt(file, sample, unit)) as clips:
                        for clip in islice(clips, given, None):
                            given += 1
                            yield clip
                    return
                except ChildDied as error:
                    if attempt == ATTEMPTS:
                        self._give_up(error)
                    file.seek(0)

    def _attempt(
        self, file: FileIO, sample: Sample, unit: str
    ) -> Generator[tuple[Clip, NDArray[Any] | None], None, None]:
        """Yield all clips of a sample from one child; raises `ChildDied` if it does not live."""
        self.start()
        assert self._child is not None
        finished = False
        job = self._job | {
            "span": None if sample.span is None else asdict(sample.span),
            "is_image": sample.is_image,
        }
        try:
            try:
                self._child.submit(job, file.fileno())
            except ChildDied:
                # It died idle, of something that is not this video: the video gets a new one.
                self.close()
                self.start()
                self._child.submit(job, file.fileno())
            while (header := self._next())["kind"] == "clip":
                yield self._clip(header, sample, unit)
            finished = header.get("reason") != "decode_memory" and self._is_lean(header)
        except (ProtocolError, KeyError, TypeError, ValueError) as error:
            detail = f"the decoder process does not keep to the protocol: {error!r}"
            raise QuarantineError("decode", "decode_crash", one_line(detail)) from error
        finally:
            if not finished:
                self.close()
        if header["kind"] == "fail":
            reason = str(header.get("reason"))
            raise QuarantineError(
                "decode",
                reason if reason in REASONS else "decode_error",
                one_line(str(header.get("detail"))),
            )

    def _next(self) -> dict[str, Any]:
        assert self._child is not None
        while True:
            header = self._child.receive(self._limits.timeout_s)
            if header["kind"] in ("clip", "end", "fail"):
                return header
            if header["kind"] != "alive":
                raise ProtocolError(f"a message of kind {header['kind']!r}")

    def _clip(
        self, header: dict[str, Any], sample: Sample, unit: str
    ) -> tuple[Clip, NDArray[Any] | None]:
        assert self._child is not None
        top, left, height, width = (float(side) for side in header["crop"])
        clip = Clip(
            unit=unit,
            key=sample.key,
            clip_index=int(header["index"]),
            start_s=float(header["start_s"]),
            end_s=float(header["end_s"]),
            source_fps=float(header["source_fps"]),
            source_height=int(header["source_height"]),
            source_width=int(header["source_width"]),
            crop=(top, left, height, width),
            num_frames=int(header["num_frames"]),
            padded_frames=int(header["padded_frames"]),
            caption=sample.caption,
            meta=sample.meta,
        )
        if header["dropped"]:
            return clip, None
        frames = np.empty(self._shape(header), np.dtype(self._rules[0].resize))
        self._child.receive_into(frames.data.cast("B"))
        return clip, frames

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

    def _is_lean(self, header: dict[str, Any]) -> bool:
        grown = header.get("grown_mb")
        return isinstance(grown, int) and grown * KEPT_SHARE < self._limits.memory_mb

    def _give_up(self, error: ChildDied) -> NoReturn:
        if error.timed_out:
            raise QuarantineError(
                "decode",
                "decode_timeout",
                f"no progress for decode.timeout_s = {self._limits.timeout_s:g} s",
                attempts=ATTEMPTS,
            ) from error
        raise QuarantineError(
            "decode", "decode_crash", f"the decoder process: {error.cause}", attempts=ATTEMPTS
        ) from error


def open_sample(sample: Sample) -> FileIO:
    """Return the sample's video as an open file at its beginning.

    Bytes go into an anonymous file in memory: the child reads them where they are.

    Raises:
        QuarantineError: `file_unreadable`, in the stage `read`.
    """
    if isinstance(sample.video, str):
        try:
            return FileIO(sample.video)
        except OSError as error:
            detail = f"{sample.video}: {error.strerror}"
            raise QuarantineError("read", "file_unreadable", detail) from error
    file = anonymous_file()
    view = memoryview(sample.video)
    while view:
        view = view[file.write(view) :]
    file.seek(0)
    return file
