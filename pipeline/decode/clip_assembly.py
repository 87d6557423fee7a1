"""From sampled frames to the clips of one rule: runs of its length, each one array.

A clip begins with the first frame that begins at most half an interval before its time, which is a
multiple of the stride after the first frame of the stretch. So clips begin on the grid of the
frames, and rounding does not add up. Without a stride, a clip begins where the previous one ends.

The state is one clip and the beginnings of those that overlap it, so a video may have any length.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.clip_choice import Choice, Rank
from pipeline.decode.clip_rule import ClipRule
from pipeline.decode.pixels.geometry import Fit
from pipeline.decode.sampling import SampledFrame
from pipeline.quarantine import MAX_PER_SAMPLE, TAIL

F = TypeVar("F")
G = TypeVar("G", contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssembledClip:
    """One clip, or one that is dropped, which has no `frames`.

    [start_s, end_s) is presentation time and covers the frames of the source only, without the
    copies that fill the clip. `fit` belongs to the first frame. A stream rarely changes its size
    within a clip; each of its frames is fitted on its own.
    """

    index: int
    """Number of the clip among all of its sample, with those that are dropped."""
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


class Pictures(Protocol[G]):
    """Gives the pixels of frames in any size, see `frame_converter.FrameConverter`."""

    def fit(self, frame: G, size: tuple[int, int]) -> Fit:
        """Return where the frame's pixels go."""

    def convert(self, frame: G, size: tuple[int, int]) -> NDArray[Any]:
        """Return the frame's pixels `[H, W, 3]`, always of one size."""


@dataclass(slots=True)
class _Begun:
    """A clip of which not all frames have arrived."""

    first: int
    start_s: Fraction
    fit: Fit
    rank: Rank | None
    wanted: bool
    frames: NDArray[Any] | None = None
    """Pixels so far, of the first wanted clip; clips that overlap it take theirs from it."""


class Assembler(Generic[F]):
    """Makes the clips of one rule from the sampled frames of one stretch.

    Args:
        rule: length and distance of clips; whether the remainder is dropped or padded.
        pictures: makes the pixels of a frame; not called for frames that no clip needs.
        nominal_s: usual duration of a frame of the source.
        origin_s: time from which the times of frames count.
        number: returns the number of the next clip of the sample.
        choice: holds the clips if not all are kept; then only those that are left out are yielded.
        numbers: values of columns that all clips of the stretch have.
    """

    def __init__(
        self,
        rule: ClipRule,
        pictures: Pictures[F],
        *,
        nominal_s: Fraction,
        origin_s: Fraction,
        number: Callable[[], int],
        choice: Choice[AssembledClip] | None = None,
        numbers: Mapping[str, float | None] | None = None,
    ) -> None:
        self.rule = rule
        self._size = rule.height, rule.width
        self._pictures = pictures
        self._slack_s = (rule.interval_s or nominal_s) / 2
        self._origin_s = origin_s
        self._number = number
        self._choice = choice
        self._numbers = {**(numbers or {}), **({"fps": rule.fps} if rule.names_fps else {})}
        self._count = 0
        self._full = 0
        """Number of frames up to the end of the last full clip."""
        self._turns = 0
        self._first_s: Fraction | None = None
        self._end_s = Fraction(0)
        self._shown_s: Fraction | None = None
        self._begun: deque[_Begun] = deque()
        self._times: deque[Fraction] = deque(maxlen=rule.frames)

    @property
    def filled(self) -> bool:
        """Whether there was a full clip."""
        return self._full > 0

    def push(self, frame: SampledFrame[F]) -> Iterator[AssembledClip]:
        """Take the next frame; yield the clip that it completes."""
        shown = frame.shown
        own_s = frame.start_s if shown.start_s == self._shown_s else shown.start_s
        self._shown_s = shown.start_s
        self._times.append(own_s - self._origin_s)
        if self._begins(frame.start_s):
            self._begin(frame)
        if (filling := self._filling()) is not None:
            pixels = self._pictures.convert(shown.frame, self._size)
            if filling.frames is None:
                filling.frames = np.empty((self.rule.frames, *pixels.shape), pixels.dtype)
            filling.frames[self._count - filling.first] = pixels
        self._count += 1
        self._end_s = frame.end_s
        if self._begun and self._count == self._begun[0].first + self.rule.frames:
            yield from self._complete()

    def rest(self) -> Iterator[AssembledClip]:
        """Yield the remainder as the rule says: the clip that has frames after the last full one.

        Clips that begin after it have no frame of their own, and are not made.
        """
        if self._begun and self._count > self._full:
            yield from self._complete()

    def _begins(self, start_s: Fraction) -> bool:
        if self.rule.stride is None:
            return self._count % self.rule.frames == 0
        if self._first_s is None:
            self._first_s = start_s
        turns = (start_s + self._slack_s - self._first_s) // self.rule.stride + 1
        begins, self._turns = turns > self._turns, turns
        return begins

    def _begin(self, frame: SampledFrame[F]) -> None:
        rank, wanted = None, True
        if self._choice is not None:
            rank = self._choice.rank(len(self._begun), frame.start_s)
            wanted = self._choice.wants(rank)
        fit = self._pictures.fit(frame.shown.frame, self._size)
        self._begun.append(_Begun(self._count, frame.start_s, fit, rank, wanted))

    def _filling(self) -> _Begun | None:
        return next((begun for begun in self._begun if begun.wanted), None)

    def _complete(self) -> Iterator[AssembledClip]:
        begun = self._begun.popleft()
        own = self._count - begun.first
        padded = self.rule.frames - own
        keep = not padded or self.rule.short == "pad"
        if begun.frames is not None:
            begun.frames[own:] = begun.frames[own - 1]
            if (following := self._filling()) is not None:
                shift = following.first - begun.first
                following.frames = np.empty_like(begun.frames)
                following.frames[: own - shift] = begun.frames[shift:own]
        self._full = self._full if padded else self._count
        clip = AssembledClip(
            index=self._number(),
            start_s=begun.start_s,
            end_s=self._end_s,
            own_frames=own,
            padded_frames=padded if keep else 0,
            fit=begun.fit,
            times_s=tuple(self._times)[-own:],
            frames=begun.frames if keep else None,
            dropped="" if keep else TAIL,
            numbers=self._numbers,
        )
        if not keep or self._choice is None or begun.rank is None:
            yield clip
        elif (out := self._choice.add(begun.rank, clip)) is not None:
            yield replace(out, padded_frames=0, frames=None, dropped=MAX_PER_SAMPLE)
