"""Measures of a clip from its pixels: numbers that a filter or a table can use.

Only `text_area` needs weights. All but `blur`, `phash` and `text_area` look at a small plane of
luma (0.299 R + 0.587 G + 0.114 B), the mean of k×k pixels, where k is the shorter side divided by
64, rounded down: a quarter of 256×256. Copies that pad a clip do not count. A clip of one frame has
no pairs of frames: its `motion`, `still` and `duplicates` are 0.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.measures.motion import displacement
from pipeline.decode.measures.phash import phash
from pipeline.decode.measures.text import text_area

_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)

_SHORTER_SIDE: Final = 64
"""Minimum of the plane's shorter side, if the clip has as many pixels."""

_ALIKE: Final = 0.5
"""Difference in levels of 255 up to which two values of the plane are equal."""

_BAR_LEVELS: Final = 4.0
"""Maximum range of a bar's values over the clip, in levels of 255: compression adds some noise."""

_USUAL_SHARPNESS: Final = 100.0
"""Variance of the Laplacian, in levels², that is the usual limit between blurred and sharp."""

_BLUR_FRAMES: Final = 2


class ClipMeasures:
    """The measures of one clip, each computed when it is asked for.

    Args:
        frames: `[T, H, W, 3]` in [0, 255], uint8 or float32, without copies that pad the clip.
    """

    def __init__(self, frames: NDArray[Any]) -> None:
        self._frames = frames

    @cached_property
    def plane(self) -> NDArray[np.float32]:
        """Luma `[T, h, w]` in [0, 255], the mean of k×k pixels; a remainder is left out."""
        count, height, width, _ = self._frames.shape
        k = max(1, min(height, width) // _SHORTER_SIDE)
        h, w = height // k, width // k
        plane = np.empty((count, h, w), np.float32)
        weights = np.tile(_LUMA / (k * k), k)
        sums = np.uint16 if self._frames.dtype == np.uint8 else np.float32
        for small, frame in zip(plane, self._frames, strict=True):
            strips = frame[: h * k].reshape(h, k, width * 3)
            total = strips[:, 0].astype(sums)
            for n in range(1, k):
                total += strips[:, n]
            pixels = total[:, : w * k * 3].astype(np.float32).reshape(h * w, 3 * k)
            np.dot(pixels, weights, out=small.reshape(h * w))
        return plane

    @cached_property
    def _changes(self) -> NDArray[np.float32]:
        """Differences `[T - 1, h, w]` between consecutive frames, in levels."""
        return np.abs(np.diff(self.plane, axis=0))

    def motion(self) -> float:
        """Mean displacement from frame to frame, in percent of the shorter side; 0 or more.

        Blocks of about an eighth of the shorter side are followed (`displacement`), in up to four
        pairs of consecutive frames. Textured blocks count alike, flat ones do not count. Values
        above about 8 percent are underestimated. Multiply by the frame rate for percent per second.
        """
        return float(100 * displacement(self.plane) / min(self.plane.shape[1:]))

    def still(self) -> float:
        """Share of pairs of consecutive frames that are almost equal, in [0, 1].

        The values of the plane differ by at most half a level of 255 on average.
        """
        return _share(self._changes.mean((1, 2)) <= _ALIKE)

    def duplicates(self) -> float:
        """Share of pairs of consecutive frames that are one picture, in [0, 1]; at most `still`.

        No value of the plane differs by more than half a level of 255.
        """
        return _share(self._changes.max((1, 2)) <= _ALIKE)

    def luma(self) -> float:
        """Mean luma, in [0, 1]: 0 is black, 1 is white."""
        return float(self.plane.mean()) / 255

    def contrast(self) -> float:
        """Standard deviation of luma within a frame, the mean over frames, in [0, 0.5]."""
        return float(self.plane.std((1, 2)).mean()) / 255

    def blur(self) -> float:
        """Lack of fine detail, in [0, 1]: 100 / (100 + v), so 0.5 at v = 100; 1 if flat.

        v is the variance of the Laplacian (4 neighbours) of luma at full size in levels², the mean
        over up to two frames, at a quarter and three quarters.
        """
        count = len(self._frames)
        places = {(2 * n + 1) * count // (2 * _BLUR_FRAMES) for n in range(_BLUR_FRAMES)}
        sharpness = np.mean([_sharpness(self._frames[n]) for n in sorted(places)])
        return float(_USUAL_SHARPNESS / (_USUAL_SHARPNESS + sharpness))

    def border(self) -> float:
        """Share of the picture that is bars (letterbox, pillarbox), in [0, 1]; 1 if all is flat.

        A bar is rows or columns from an edge whose values on the plane stay within four levels of
        255 across the bar's length and all frames.
        """
        low, high = self.plane.min(0), self.plane.max(0)
        rows = _inside(high.max(1) - low.min(1) > _BAR_LEVELS)
        low, high = low[rows], high[rows]
        if not low.size:
            return 1.0
        columns = _inside(high.max(0) - low.min(0) > _BAR_LEVELS)
        kept = len(low) * low[:, columns].shape[1]
        return float(1 - kept / self.plane[0].size)

    def phash(self) -> int:
        """Return the perceptual hash of the middle frame (number T // 2), see `phash`."""
        return phash(self._frames[len(self._frames) // 2])

    def text_area(self) -> float:
        """Share of the middle frame (number T // 2) that boxes around text cover, in [0, 1]."""
        return text_area(self._frames[len(self._frames) // 2])


MEASURES: Final[dict[str, Callable[[ClipMeasures], float]]] = {
    "motion": ClipMeasures.motion,
    "still": ClipMeasures.still,
    "luma": ClipMeasures.luma,
    "contrast": ClipMeasures.contrast,
    "blur": ClipMeasures.blur,
    "border": ClipMeasures.border,
    "duplicates": ClipMeasures.duplicates,
    "phash": ClipMeasures.phash,
    "text_area": ClipMeasures.text_area,
}
"""All measures by name."""


def measure(
    frames: NDArray[Any], names: Sequence[str], own_frames: int | None = None
) -> dict[str, float]:
    """Return measures of a clip by name: `phash` as an int, others as a float32 holds them.

    Args:
        frames: `[T, H, W, 3]` in [0, 255], uint8 or float32.
        names: some of `MEASURES`.
        own_frames: number of frames before the copies that pad the clip. None: all.
    """
    clip = ClipMeasures(frames[:own_frames])
    values = {name: MEASURES[name](clip) for name in names}
    return {
        name: value if isinstance(value, int) else float(np.float32(value))
        for name, value in values.items()
    }


def _share(pairs: NDArray[np.bool_]) -> float:
    return float(pairs.mean()) if len(pairs) else 0.0


def _inside(own: NDArray[np.bool_]) -> slice:
    """Return the range from the first to the last row or column that is not a bar's."""
    places = np.flatnonzero(own)
    return slice(places[0], places[-1] + 1) if len(places) else slice(0, 0)


def _sharpness(frame: NDArray[Any]) -> float:
    """Return the variance of the Laplacian of luma; 0 if the frame has no inner pixel."""
    luma = frame.astype(np.float32) @ _LUMA
    edges = luma[:-2, 1:-1] + luma[2:, 1:-1]
    edges += luma[1:-1, :-2]
    edges += luma[1:-1, 2:]
    edges -= luma[1:-1, 1:-1] * np.float32(4)
    values = edges.ravel()
    return (
        max(0.0, float(values @ values / values.size - values.mean() ** 2)) if values.size else 0.0
    )
