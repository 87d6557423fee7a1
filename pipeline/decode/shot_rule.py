"""How a video is split into shots. `ShotRule` is part of the fingerprint of the tokens."""

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

THRESHOLDS = {"content": 2.5, "transnetv2": 0.5}
"""Default threshold of each way to find cuts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotRule:
    """How cuts are found, and what is left out beside them.

    Raises:
        ValueError: a field is out of range; the text names it and the fix.
    """

    by: Literal["content", "transnetv2"] = "content"
    """Way to find cuts: the difference of frames, or the network TransNetV2."""
    threshold: float | None = None
    """Score from which a frame begins a shot; None takes the default of the way."""
    trim_s: float = 0.0
    """Seconds that are left out on both sides of each cut."""
    min_s: float = 0.0
    """Seconds from which a shot gives clips."""

    def __post_init__(self) -> None:
        if self.by not in THRESHOLDS:
            raise ValueError(f"by = {self.by!r}: use 'content' or 'transnetv2'")
        for name in ("trim_s", "min_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 0")

    @property
    def score(self) -> float:
        """Threshold, with its default."""
        return THRESHOLDS[self.by] if self.threshold is None else self.threshold

    @property
    def trim(self) -> Fraction:
        """Seconds that are left out, as they were written."""
        return Fraction(repr(self.trim_s))
