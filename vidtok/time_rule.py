"""How the three networks differ in time; without torch, so that settings are checked at once."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TimeRule:
    """How one network treats the beginning and the end of a clip."""

    causal: bool
    """Whether a frame depends on no later frame."""
    fill: Literal["zeros", "first"]
    """Content of frames outside the clip: zeros, or copies of a layer's first input frame."""
    upsampling: Literal["nearest", "linear"]
    """Interpolation where time is doubled."""
    length_remainder: int | None
    """Remainder of valid lengths modulo the temporal factor. None allows any length."""
    chunkable: bool
    """Whether a clip can be processed in chunks."""

    def padding(self, stride: int) -> tuple[int, int]:
        """Return the number of frames that a kernel of three needs in front and behind."""
        if self.causal:
            return 3 - stride, 0
        return (1, 1) if stride == 1 else (0, 1)


RULES = {
    "causal_v1_0": TimeRule(True, "zeros", "nearest", 1, chunkable=False),
    "causal_v1_1": TimeRule(True, "first", "linear", None, chunkable=True),
    "noncausal": TimeRule(False, "zeros", "nearest", 0, chunkable=False),
}
