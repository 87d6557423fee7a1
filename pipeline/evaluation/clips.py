"""Frames of a sample, and clips of several lengths from the same frames.

A video is decoded once, frame by frame, and each clip length has a cutter. So one table can hold
networks that take 17 frames, 16 frames, or whole videos.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.decode import ClipRule, Decoder
from pipeline.evaluation.config import EvaluatedClip
from pipeline.records import Sample


def frame_rule(clip: EvaluatedClip) -> ClipRule:
    """Return the decoder's rule: clips of one frame, chosen by time or all of them."""
    by_time = clip.fps if clip.choice == "time" else None
    return ClipRule(
        frames=1,
        height=clip.height,
        width=clip.width,
        fps=by_time,
        short="drop",
        resize="float32",
    )


def frames(
    decoder: Decoder, sample: Sample, unit: str, clip: EvaluatedClip
) -> Iterator[NDArray[Any]]:
    """Yield the frames of a video that are evaluated, float32 `[H, W, 3]` in [0, 255].

    Raises:
        QuarantineError: the video is broken; the frames so far must not count.
    """
    for n, (seen, pixels) in enumerate(decoder.decode(sample, unit)):
        assert pixels is not None  # a clip of one frame leaves no remainder
        if clip.choice == "time" or n % interval(seen.source_fps, clip.fps) == 0:
            yield pixels[0]


def interval(source_fps: float, fps: float | None) -> int:
    """Return the reference's step between frames; 1 where the reference computes 0 and fails."""
    return 1 if fps is None else max(1, round(source_fps / fps))


class ClipFiller:
    """Fills clips of one length from the frames of one video.

    Args:
        length: frames of a clip; None for the whole video.
        clip: the settings.
    """

    def __init__(self, length: int | None, clip: EvaluatedClip) -> None:
        self._length = length
        self._clip = clip
        self._frames: list[NDArray[Any]] = []
        self._cut = 0

    def add(self, frame: NDArray[Any]) -> Tensor | None:
        """Add a frame, and return the clip `[1, 3, T, H, W]` in [-1, 1] that it completes."""
        if self._clip.per_video is not None and self._cut >= self._clip.per_video:
            return None
        self._frames.append(frame)
        return self._take() if len(self._frames) == self._length else None

    def rest(self) -> Tensor | None:
        """Return the clip of the frames left at the video's end, if there is one."""
        if self._length is None:
            chunks = (len(self._frames) - 1) // self._clip.chunk_frames
            self._frames = self._frames[: 1 + chunks * self._clip.chunk_frames] if chunks else []
        elif self._clip.short == "drop":
            self._frames = []
        elif self._frames:
            self._frames += [self._frames[-1]] * (self._length - len(self._frames))
        return self._take() if self._frames else None

    def _take(self) -> Tensor:
        pixels = torch.from_numpy(np.stack(self._frames))
        self._frames = []
        self._cut += 1
        return (pixels / 127.5 - 1).permute(3, 0, 1, 2)[None].contiguous()
