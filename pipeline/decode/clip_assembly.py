"""From sampled frames to clips: consecutive runs of the rule's length, each one array.

The only state is the current clip, so a video may have any length.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.clip_rule import ClipRule
from pipeline.decode.geometry import Fit
from pipeline.decode.sampling import SampledFrame
from pipeline.quarantine import TAIL

F = TypeVar("F")


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledClip:
    """One clip, or the remainder that the rule drops, which has no `frames`.

    [start_s, end_s) is presentation time and covers the frames of the source only, without the
    copies that fill the clip. `fit` belongs to the first frame. A stream rarely changes its size
    within a clip; each of its frames is fitted on its own.
    """

    index: int
    start_s: Fraction
    end_s: Fraction
    own_frames: int
    """Number of frames of the source; the frames after them are copies of the last."""
    padded_frames: int
    fit: Fit
    times_s: tuple[Fraction, ...]
    """Times of the frames of the source from the origin. A picture has the time at which it begins;
    where it is shown again, that of the clip's clock."""
    frames: NDArray[Any] | None
    """Pixels `[T, H, W, 3]` in [0, 255], of the rule's dtype; H and W are those of `fit`."""
    dropped: str = ""
    """Rule by which the clip has no `frames`; a key of `pipeline.quarantine.DROPPED`."""
    numbers: dict[str, float | None] = field(default_factory=dict)
    """Values of the clip's columns of numbers, by name."""


def assemble_clips(
    sampled: Iterable[SampledFrame[F]],
    rule: ClipRule,
    convert: Callable[[F], tuple[NDArray[Any], Fit]],
    origin_s: Fraction = Fraction(0),
) -> Iterator[AssembledClip]:
    """Yield clips as soon as they are full, then the remainder as the rule says.

    Args:
        sampled: the frames of the output, in order.
        rule: length of a clip, and whether the remainder is dropped or padded.
        convert: makes pixels `[H, W, 3]` of a frame, always of one size; called once for a frame,
            however often it is sampled.
        origin_s: time from which the times of frames count.
    """
    index = filled = 0
    start_s = end_s = Fraction(0)
    converted: F | None = None
    frames = np.empty(0)
    first: Fit | None = None
    times: list[Fraction] = []
    for frame in chain(sampled, (None,)):
        if frame is not None:
            own_s = frame.start_s
            if frame.shown.frame is not converted:
                pixels, fit = convert(frame.shown.frame)
                converted, own_s = frame.shown.frame, frame.shown.start_s
            if not filled:
                frames = np.empty((rule.frames, *pixels.shape), pixels.dtype)
                first, start_s = fit, frame.start_s
                times = []
            frames[filled] = pixels
            times.append(own_s - origin_s)
            filled, end_s = filled + 1, frame.end_s
        if filled == rule.frames or (filled and frame is None):
            assert first is not None
            frames[filled:] = frames[filled - 1]
            padded = rule.frames - filled
            keep = not padded or rule.short == "pad"
            yield AssembledClip(
                index=index,
                start_s=start_s,
                end_s=end_s,
                own_frames=filled,
                padded_frames=padded if keep else 0,
                fit=first,
                times_s=tuple(times),
                frames=frames if keep else None,
                dropped="" if keep else TAIL,
            )
            index, filled = index + 1, 0
