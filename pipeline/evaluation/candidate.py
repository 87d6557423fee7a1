"""Interface of a candidate: a tokenizer or a baseline."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """A reconstructed clip and its cost."""

    video: Tensor
    """Float32 `[1, 3, T, H, W]`, near [-1, 1], not clamped."""
    bits: float
    """Bits spent on the clip."""
    coded_bits: float
    """Bits of the same content under a lossless coder."""
    indices: Tensor | None = None
    """Code indices `[1, t, h, w]` of an FSQ tokenizer."""


class Candidate(Protocol):
    """Something that is evaluated."""

    name: str

    def reconstruct(self, video: Tensor, clip_id: str) -> Reconstruction:
        """Encode and decode a clip `[1, 3, T, H, W]` in [-1, 1].

        `clip_id` is the seed of random draws, so a clip always gives the same reconstruction.

        Raises:
            PipelineError: the latent or the reconstruction is not finite.
        """
        ...
