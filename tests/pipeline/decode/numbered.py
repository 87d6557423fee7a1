"""Pictures that carry their number, and clips of them: see `tests/data/README.md`."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.decode import ClipRule, DecodeLimits
from pipeline.decode.clips import clips
from pipeline.quarantine import QuarantineError
from pipeline.records import Span
from tests.assets import DATA

FIELD = DATA / "field"


def number(picture: NDArray[Any]) -> int:
    """The number in a picture `[96, 128, 3]`; -1 where a block is neither black nor white."""
    found = 0
    for bit in range(12):
        top, left = (2 + bit // 6) * 16, (1 + bit % 6) * 16
        level = float(picture[top + 5 : top + 11, left + 5 : left + 11].mean())
        if 70 < level < 185:
            return -1
        found |= int(level > 128) << bit
    return found


def shown(
    path: Path, span: Span | None = None, *, fps: float | None = None, **limits: Any
) -> tuple[list[tuple[float, int]], str]:
    """The times and the numbers of the pictures of a video or span, and how it ends.

    A clip that is not full when a video breaks is lost, so the pictures that may come before the
    fault are one less.
    """
    rule = ClipRule(frames=1, height=96, width=128, fps=fps, short="pad")
    found: list[tuple[float, int]] = []
    with path.open("rb", buffering=0) as file:
        try:
            for clip, _ in clips(file, [rule], DecodeLimits(**limits), lambda: None, span):
                assert clip.frames is not None
                found.append((float(clip.start_s), number(clip.frames[0])))
        except QuarantineError as error:
            return found, f"{error.reason}: {error.detail}"
    return found, "whole"
