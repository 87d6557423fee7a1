"""What a trainer asks of the clips of one bucket, as integers alone: sums of it are exact.

Integers add up to the same in any order and grouping, so a unit that is done again in other batches
has the same statistics, and a dataset's do not depend on who committed what first. Only the latents
have to be rounded to become integers, each on its own: a value to a multiple of 2⁻²⁴, which float16
and what bfloat16 has above 2⁻¹⁷ are already, its square to one of 2⁻³². A mean is off by 2⁻²⁵ at
most, a mean square by 2⁻³³. PSNR is rounded to thousandths of a dB, clip by clip.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

SUM_BITS: Final = 24


SQUARE_BITS: Final = 32


WORST: Final = 3
"""Clips of lowest PSNR that are named."""


Sums = TypeVar("Sums", "LatentSums", "LevelCounts", "PsnrSums", "BucketStatistics")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSums:
    """Of the posterior means of one KL tokenizer, by channel."""

    cells: int
    """Of one channel."""
    sums: tuple[int, ...]
    """In units of 2⁻²⁴."""
    squares: tuple[int, ...]
    """Sums of squares, in units of 2⁻³²."""

    def __add__(self, other: "LatentSums") -> "LatentSums":
        return LatentSums(
            cells=self.cells + other.cells,
            sums=tuple(map(int.__add__, self.sums, other.sums)),
            squares=tuple(map(int.__add__, self.squares, other.squares)),
        )

    def mean(self) -> list[float]:
        """Return the mean of each channel."""
        return [total / (self.cells << SUM_BITS) for total in self.sums]

    def std(self) -> list[float]:
        """Return the standard deviation of each channel over all cells, not an estimate of it."""
        spread = []
        for total, squares in zip(self.sums, self.squares, strict=True):
            # Before the division all is integers, so nothing cancels.
            scaled = (squares * self.cells << (2 * SUM_BITS - SQUARE_BITS)) - total * total
            variance = max(0, scaled) / (self.cells**2 << 2 * SUM_BITS)
            spread.append(math.sqrt(variance))
        return spread


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelCounts:
    """How often an FSQ tokenizer's channels took each of their levels; channel 0 first."""

    counts: tuple[tuple[int, ...], ...]

    def __add__(self, other: "LevelCounts") -> "LevelCounts":
        pairs = zip(self.counts, other.counts, strict=True)
        return LevelCounts(counts=tuple(tuple(map(int.__add__, a, b)) for a, b in pairs))

    @property
    def cells(self) -> int:
        """Code indices that were counted."""
        return sum(self.counts[0])

    def perplexity(self) -> list[float]:
        """Return 2 to the entropy of each channel: as many levels, used alike, say as much."""
        return [perplexity(counts) for counts in self.counts]


def perplexity(counts: tuple[int, ...]) -> float:
    """Return 2 to the entropy of what was counted; 0 of nothing."""
    total = sum(counts)
    if not total:
        return 0.0
    return 2 ** math.fsum(-n / total * math.log2(n / total) for n in counts if n)


@dataclass(frozen=True, slots=True, kw_only=True)
class PsnrSums:
    """How well one tokenizer's tokens, decoded back, match the frames of drawn clips."""

    clips: int = 0
    """Decoded back."""
    failed: int = 0
    """Drawn, but decoding them failed; they are in nothing else here."""
    millidecibels: int = 0
    """Sum of the clips' PSNR in thousandths of a dB, each rounded to one."""
    counts: dict[int, int] = field(default_factory=dict)
    """PSNR in whole dB, rounded down → clips."""
    worst: tuple[tuple[int, str], ...] = ()
    """Thousandths of a dB and `clip_id` of the `WORST` clips, the worst first."""

    @classmethod
    def of(cls, clip_id: str, psnr_db: float | None) -> "PsnrSums":
        """Return the sums of one clip; None: it could not be decoded."""
        if psnr_db is None:
            return cls(failed=1)
        value = round(1000 * psnr_db)
        return cls(
            clips=1,
            millidecibels=value,
            counts={value // 1000: 1},
            worst=((value, clip_id),),
        )

    def __add__(self, other: "PsnrSums") -> "PsnrSums":
        return PsnrSums(
            clips=self.clips + other.clips,
            failed=self.failed + other.failed,
            millidecibels=self.millidecibels + other.millidecibels,
            counts=_added(self.counts, other.counts),
            worst=tuple(sorted(self.worst + other.worst)[:WORST]),
        )

    @property
    def mean_db(self) -> float | None:
        """Mean over the clips; None without any."""
        return self.millidecibels / (1000 * self.clips) if self.clips else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for programs, in dB."""
        worst = [{"clip_id": clip_id, "psnr_db": value / 1000} for value, clip_id in self.worst]
        return {
            "clips": self.clips,
            "failed": self.failed,
            "mean_db": self.mean_db,
            "counts": self.counts,
            "worst": worst,
        }

    def __str__(self) -> str:
        failed = f"{self.failed} could not be decoded back" if self.failed else ""
        if self.mean_db is None:
            return failed
        value, clip_id = self.worst[0]
        return (
            f"{self.mean_db:.2f} dB on average over {self.clips} clips decoded back;"
            f" {value / 1000:.2f} at least, of {clip_id}" + (f"; {failed}" if failed else "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketStatistics:
    """Of the clips of one bucket that became rows; its size does not grow with them."""

    clips: int = 0
    frames: int = 0
    """Copies included."""
    padded_frames: int = 0
    microseconds: int = 0
    """Of source that the clips stand for, each rounded to one."""
    captions: int = 0
    """Clips that have one which is not empty."""
    caption_characters: int = 0
    metas: int = 0
    """Clips that have other sidecars."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Frames, rounded up to a power of two → clips."""
    sides: dict[int, int] = field(default_factory=dict)
    """Shorter side of the source in pixels, rounded up to one of `gather.SIDES` → clips."""
    rates: dict[int, int] = field(default_factory=dict)
    """Frames per second of the source, rounded to one; 0 of images → clips."""
    latents: dict[str, LatentSums] = field(default_factory=dict)
    """By KL tokenizer."""
    levels: dict[str, LevelCounts] = field(default_factory=dict)
    """By FSQ tokenizer."""
    psnr: dict[str, PsnrSums] = field(default_factory=dict)
    """By tokenizer, if any of the clips was drawn to be decoded back."""

    def __add__(self, other: "BucketStatistics") -> "BucketStatistics":
        return BucketStatistics(
            clips=self.clips + other.clips,
            frames=self.frames + other.frames,
            padded_frames=self.padded_frames + other.padded_frames,
            microseconds=self.microseconds + other.microseconds,
            captions=self.captions + other.captions,
            caption_characters=self.caption_characters + other.caption_characters,
            metas=self.metas + other.metas,
            lengths=_added(self.lengths, other.lengths),
            sides=_added(self.sides, other.sides),
            rates=_added(self.rates, other.rates),
            latents=merged(self.latents, other.latents),
            levels=merged(self.levels, other.levels),
            psnr=merged(self.psnr, other.psnr),
        )


def merged(one: Mapping[str, Sums], other: Mapping[str, Sums]) -> dict[str, Sums]:
    """Return both, those under one name added up, in the order of names."""
    total = {**other, **one}
    total.update((name, one[name] + other[name]) for name in one.keys() & other.keys())
    return dict(sorted(total.items()))


def _added(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return dict(sorted((Counter(one) + Counter(other)).items()))
