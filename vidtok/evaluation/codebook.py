"""Use of an FSQ codebook: a histogram of the code indices that a tokenizer gives.

A plain array is enough: the largest released codebook, 262,144 codes, takes 2 MiB.
"""

import math
from typing import Any

import torch
from torch import Tensor


class CodebookUse:
    """Counts of code indices, and the statistics that follow from them.

    Args:
        levels: number of levels of each latent channel; channel 0 is the least significant digit.
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
        """Add the counts of another object.

        Raises:
            ValueError: its counts are those of another codebook.
        """
        if self.levels != other.levels:
            raise ValueError(
                f"codebooks of levels {self.levels} and {other.levels} cannot be merged"
            )
        self.counts += other.counts

    @property
    def tokens(self) -> int:
        """Number of counted indices."""
        return int(self.counts.sum())

    def level_counts(self) -> list[list[int]]:
        """Return the number of times that each level of each channel occurred."""
        grid = self.counts.view(self.levels[::-1])  # the last axis is the least significant digit
        axes = range(len(self.levels))
        return [
            grid.sum([axis for axis in axes if axis != len(self.levels) - 1 - channel]).tolist()
            if len(self.levels) > 1
            else grid.tolist()
            for channel in axes
        ]

    def summary(self) -> dict[str, Any]:
        """Return statistics of the counts as plain values for JSON, entropies in bits per token.

        N tokens show at most log2(N) bits and N codes. With few tokens `entropy_bits` is therefore
        far below the entropy of the distribution. `channel_bound_bits`, the sum of the channels'
        entropies, is an upper bound of the entropy. It converges with far fewer tokens, because a
        channel has few levels. `note` warns if there are fewer tokens than codes.
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
    """Return the entropy, in bits, of the distribution of the counts. No counts give 0."""
    seen = counts[counts > 0].double()
    total = seen.sum()
    return float((seen / total * torch.log2(total / seen)).sum())
