"""FSQ indices that follow the scene: fewer bits, as far as a clip decoded back loses little."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pipeline.config.job import TokenizerSpec
from pipeline.tokenizers.facts import Facts
from vidtok.repeats import hold_within, repeat_share


@dataclass(frozen=True, slots=True)
class BitsByScene:
    """What is done to the indices of a clip once it is encoded."""

    levels: tuple[int, ...]
    """Number of levels of each channel."""
    max_hold_db: float
    """Maximum loss in dB for holding near-repeats."""

    @classmethod
    def of(cls, spec: TokenizerSpec, facts: Facts) -> "BitsByScene | None":
        """Return what the settings of a tokenizer ask for; None if that is nothing."""
        return None if spec.hold is None else cls(facts.levels, spec.hold.max_loss_db)

    def __call__(
        self, indices: Tensor, psnr_db: Callable[[Tensor], float]
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the indices of one clip that are stored, and the numbers of its side columns.

        Args:
            indices: `[1, t, h, w]`, as the model gives them.
            psnr_db: PSNR in dB of such indices, decoded, against the frames that were encoded.
        """
        held, distance = hold_within(indices, self.levels, self.max_hold_db, psnr_db)
        return held, {"hold": distance, "repeats": float(repeat_share(held))}
