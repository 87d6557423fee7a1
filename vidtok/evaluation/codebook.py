"""How much of an FSQ codebook a tokenizer uses: a histogram of its code indices.

A plain array is enough: the largest released codebook, 262,144 codes, takes 2 MiB.
"""

import math
from typing import Any

import torch
from torch import Tensor


class CodebookUse:
    """Counts of code indices, from which all that is said about a codebook's use follows.

    Args:
        levels: number of levels of each latent channel, channel 0 the least significant digit.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        self.levels = tuple(levels)
        self.counts = torch.zeros(math.prod(self.levels), dtype=torch.int64)

    def update(self, indices: Tensor) -> None:
        """Count code indices, integers of any shape.

        Raises:
            ValueError: an index lies outside the codebook.
        """
        flat = indices.detach().flatten().to("cpu", torch.int64)
        if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < len(self.counts):
            raise ValueError(
                f"indices from {int(flat.min())} to {int(flat.max())}: "
                f"the codebook has {len(self.counts)} codes"
            )
        self.counts += torch.bincount(flat, minlength=len(self.counts))

    def merge(self, other: "CodebookUse") -> None:
        """Take in what another one has counted.

        Raises:
            ValueError: it counted codes of another codebook.
        """
        if self.levels != other.levels:
            raise ValueError(f"codebooks of levels {self.levels} and {other.levels} do not merge")
        self.counts += other.counts

    @property
    def tokens(self) -> int:
        """How many indices were counted."""
        return int(self.counts.sum())

    def level_counts(self) -> list[list[int]]:
        """Return for each channel how often each of its levels occurred."""
        grid = self.counts.view(self.levels[::-1])  # the last axis is the least significant digit
        axes = range(len(self.levels))
        return [
            grid.sum([axis for axis in axes if axis != len(self.levels) - 1 - channel]).tolist()
            if len(self.levels) > 1
            else grid.tolist()
            for channel in axes
        ]

    def summary(self) -> dict[str, Any]:
        """Return what the counts say, JSON-able; entropies are in bits per token.

        `tokens` tokens show at most log2(tokens) bits and `tokens` codes, whatever the codebook:
        with few tokens `entropy_bits` is far below the truth. `channel_bound_bits`, the sum of the
        channels' entropies, is an upper bound of the entropy, and settles with far fewer tokens
        since a channel has few levels. `note` says so where tokens are fewer than codes.
        """
        codes, tokens = len(self.counts), self.tokens
        channels = self.level_counts()
        per_channel = [entropy_bits(torch.tensor(counts)) for counts in channels]
        entropy = entropy_bits(self.counts)
        used = int(self.counts.count_nonzero())
        ceiling = math.log2(min(tokens, codes)) if tokens else 0.0
        return {
            "tokens": tokens,
            "codebook_size": codes,
            "codebook_bits": math.log2(codes),
            "codes_used": used,
            "share_used": used / codes,
            "entropy_bits": entropy,
            "perplexity": 2**entropy,
            "entropy_ceiling_bits": ceiling,
            "channel_bound_bits": sum(per_channel),
            "channel_entropy_bits": per_channel,
            "channel_share_used": [
                sum(count > 0 for count in counts) / len(counts) for counts in channels
            ],
            "channel_level_counts": channels,
            "note": None
            if tokens >= codes
            else f"{tokens} tokens show at most {ceiling:.2f} of {math.log2(codes):.2f} bits",
        }


def entropy_bits(counts: Tensor) -> float:
    """Return the entropy, in bits, of the distribution that counts show; 0 for no counts."""
    seen = counts[counts > 0].double()
    total = seen.sum()
    return float((seen / total * torch.log2(total / seen)).sum())
