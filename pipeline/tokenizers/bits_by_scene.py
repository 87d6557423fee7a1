"""FSQ indices that follow the scene: fewer bits, as far as a clip decoded back loses little."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from pipeline.config.job import TokenizerSpec
from pipeline.tokenizers.facts import Facts
from vidtok import ChannelOrder
from vidtok.repeats import hold_within, repeat_share

Quality = Callable[[Tensor, int | None], float]
"""PSNR in dB of indices `[1, t, h, w]`, decoded, against the frames that were encoded.

With a number of channels, only these are decoded. None: all.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsByScene:
    """What is done to the indices of a clip once it is encoded."""

    levels: tuple[int, ...]
    """Number of levels of each channel."""
    max_hold_db: float | None
    """Maximum loss in dB for holding near-repeats. None: nothing is held."""
    max_channels_db: float | None
    """Maximum loss in dB of fewer channels. None: the fewest channels are not searched."""
    fewer: tuple[int, ...]
    """Numbers of channels below all that can be decoded."""

    @classmethod
    def of(
        cls, spec: TokenizerSpec, facts: Facts, channels: ChannelOrder | None
    ) -> "BitsByScene | None":
        """Return what the settings of a tokenizer ask for; None if that is nothing."""
        if spec.hold is None and spec.channels is None:
            return None
        return cls(
            levels=facts.levels,
            max_hold_db=None if spec.hold is None else spec.hold.max_loss_db,
            max_channels_db=None if spec.channels is None else spec.channels.max_loss_db,
            fewer=() if channels is None else tuple(channels.fills),
        )

    def __call__(self, indices: Tensor, psnr_db: Quality) -> tuple[Tensor, dict[str, float]]:
        """Return the indices of one clip that are stored, and the numbers of its side columns.

        Args:
            indices: `[1, t, h, w]`, as the model gives them.
            psnr_db: quality of such indices.
        """
        numbers: dict[str, float] = {}
        if self.max_hold_db is not None:
            indices, numbers["hold"] = hold_within(
                indices, self.levels, self.max_hold_db, lambda held: psnr_db(held, None)
            )
            numbers["repeats"] = float(repeat_share(indices))
        if self.max_channels_db is not None:
            numbers["channels"] = fewest_channels(
                len(self.levels), self.fewer, self.max_channels_db, lambda k: psnr_db(indices, k)
            )
        return indices, numbers


def fewest_channels(
    most: int, fewer: Iterable[int], max_loss_db: float, psnr_db: Callable[[int | None], float]
) -> int:
    """Return the fewest channels with which a clip loses little.

    The number goes down from all channels as long as `psnr_db(None) - psnr_db(k)` is at most
    `max_loss_db`. So each number that is tried costs one decoding.

    Args:
        most: number of all channels.
        fewer: smaller numbers that can be decoded.
        max_loss_db: maximum loss in dB, 0 or more.
        psnr_db: quality in dB of the clip by number of channels; None for all.
    """
    least, exact_db = most, psnr_db(None)
    for k in sorted(fewer, reverse=True):
        if exact_db - psnr_db(k) > max_loss_db:
            break
        least = k
    return least
