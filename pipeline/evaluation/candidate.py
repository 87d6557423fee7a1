"""What every candidate, tokenizer or baseline, makes of a clip."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A clip as it comes back, and what it cost."""

    video: Tensor
    """Float32 `[1, 3, T, H, W]`, near [-1, 1], not clamped."""
    bits: float
    """Spent on the clip."""
    indices: Tensor | None = None
    """FSQ: code indices `[1, t, h, w]`."""


class Candidate(Protocol):
    """Something that is evaluated."""

    name: str

    def reconstruct(self, video: Tensor, clip_id: str) -> Reconstruction:
        """Return what becomes of a clip `[1, 3, T, H, W]` in [-1, 1].

        `clip_id` seeds what is random; the same clip always gives the same reconstruction.
        """
        ...
