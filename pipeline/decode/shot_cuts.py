"""Finds cuts by the difference of frames: which displayed frame begins a new shot.

Every displayed frame is shrunk to a luma plane of 32×18. Its change is the mean absolute difference
to the plane before it, in levels of 255. A frame begins a shot if all of this holds:

1. Its change is at least `FLOOR`.
2. Its score is at least the threshold. The score is the ratio of the change to the mean change of
   its neighbours, without the largest one, times the share of the plane that the plane before it
   does not explain by another brightness or contrast: √(1 - correlation²). So motion and whip pans,
   which change many frames, and small changes of light, have low scores.
3. No frame shortly after it looks like one shortly before it. That would be a flash.

Repeated frames have no change and do not count as neighbours, so 24 pictures per second in 60
frames are read as 24. A dissolve or a fade has no frame that begins a shot. The idea of the ratio
is that of PySceneDetect's AdaptiveDetector.

At most `AHEAD` frames are held, and only from a frame that can begin a shot.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from pipeline.decode.sampling import DisplayedFrame
from pipeline.decode.shots import Marked
from pipeline.quarantine import QuarantineError

FLOOR: Final = 5.0
"""Minimum change of a frame that begins a shot, in levels of 255."""

AHEAD: Final = 6
"""Number of frames before and after a frame that are compared with it."""

_NEIGHBOURS = 3
"""Number of changes on each side that count as neighbours."""

_REPEATED = 0.05
"""Share of a change below which another frame's change does not make it a neighbour."""

_STILL = 0.25
"""Levels added to the mean change, so that noise in a still picture has no ratio."""

_ALIKE = 0.5
"""Share of a change below which two frames count as alike."""

_APART = 3
"""Minimum number of frames of a shot; a blend of two shots changes two frames."""

WIDTH, HEIGHT = 32, 18

F = TypeVar("F")


class LumaPlanes:
    """Shrinks frames to luma planes; keeps swscale's tables between frames."""

    def __init__(self) -> None:
        self._reformat = VideoReformatter().reformat

    def plane(self, frame: VideoFrame) -> NDArray[np.int16]:
        """Return the plane `[18, 32]` of a frame, in quarters of a level of 255.

        A point is the mean of four pixels of the frame: a mean of all pixels of 720p takes fifteen
        times as long and finds the same cuts.
        """
        small = self._reformat(
            frame,
            width=2 * WIDTH,
            height=2 * HEIGHT,
            format="gray",
            interpolation=Interpolation.POINT,
            threads=1,
        )
        luma: Any = small.planes[0]
        data = np.frombuffer(luma, np.uint8).reshape(2 * HEIGHT, -1)[:, : 2 * WIDTH]
        rows = data[::2].astype(np.int16) + data[1::2]
        plane: NDArray[np.int16] = rows[:, ::2] + rows[:, 1::2]
        return plane


@dataclass(slots=True)
class _Seen:
    """A plane, and its change from the one before it."""

    plane: NDArray[np.int16]
    change: float


def marked(
    frames: Iterable[DisplayedFrame[VideoFrame]], threshold: float
) -> Iterator[Marked[VideoFrame]]:
    """Yield every frame with whether it begins a shot; the first one does.

    Args:
        frames: all displayed frames, in order.
        threshold: minimum score of a frame that begins a shot.

    Raises:
        QuarantineError: as `frames`, after all frames before it.
    """
    planes = LumaPlanes()
    yield from marked_by_planes(((shown, planes.plane(shown.frame)) for shown in frames), threshold)


def marked_by_planes(
    frames: Iterable[tuple[DisplayedFrame[F], NDArray[np.int16]]], threshold: float
) -> Iterator[Marked[F]]:
    """Yield as `marked` does, from frames with their planes."""
    past: deque[_Seen] = deque(maxlen=AHEAD + 1)
    held: deque[DisplayedFrame[F]] = deque()
    seen: deque[_Seen] = deque()
    """What is known of the held frames."""
    since = _APART

    def decided(*, final: bool) -> Iterator[Marked[F]]:
        nonlocal since
        while held and (final or seen[0].change < FLOOR or len(held) > AHEAD):
            cut = False
            if seen[0].change >= FLOOR and since >= _APART:
                cut = _begins_shot([*past], [*seen][: AHEAD + 1], threshold)
            first = not past
            past.append(seen.popleft())
            since = 1 if cut else since + 1
            yield held.popleft(), cut or first

    last: NDArray[np.int16] | None = None
    try:
        for shown, plane in frames:
            change = 0.0 if last is None else _difference(plane, last)
            held.append(shown)
            seen.append(_Seen(plane, change))
            last = plane
            yield from decided(final=False)
    except QuarantineError:
        yield from decided(final=True)
        raise
    yield from decided(final=True)


def _begins_shot(before: list[_Seen], after: list[_Seen], threshold: float) -> bool:
    """Return whether the first frame of `after` begins a shot."""
    change = after[0].change
    # The change of the first is that of a frame too far away, or of the first frame of all.
    sides = [one.change for one in before[:0:-1]], [one.change for one in after[1:]]
    near = [each for side in sides for each in _neighbours(side, _REPEATED * change)]
    near = sorted(near)[: max(1, len(near) - 1)]
    ratio = change / (sum(near) / max(1, len(near)) + _STILL)
    if ratio < threshold:  # most frames that move; the rest costs more than the planes do
        return False
    kept = max(0.0, min(_correlation(before[-1].plane, one.plane) for one in after[:2]))
    if ratio * math.sqrt(max(0.0, 1 - kept**2)) < threshold:
        return False
    pairs = [(a, b) for a in before[-2:] for b in after] + [
        (a, b) for a in before for b in after[:2]
    ]
    return all(_difference(a.plane, b.plane) >= _ALIKE * change for a, b in pairs)


def _neighbours(side: list[float], least: float) -> list[float]:
    """Return the changes nearest to a frame, of those on one side in the order of their distance.

    A side that is still for as long as it is known has the change 0.
    """
    near = [each for each in side if each > least][:_NEIGHBOURS]
    return near or [0.0] * (len(side) >= AHEAD)


def _difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    return int(np.abs(one - other).sum()) / (4 * one.size)


def _correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the correlation of two planes; 0 if one of them is flat."""
    a, b = (plane - plane.mean() for plane in (one, other))
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm else 0.0
