"""Statistics of the clips of one bucket, as integers only, so that sums of them are exact.

Sums of integers do not depend on order or grouping. A unit that is done again in other batches has
the same statistics, and a dataset's do not depend on the order of commits. Only latents have to be
rounded to become integers, each on its own: a value to a multiple of 2⁻²⁴, its square to one of
2⁻³². Float16, and bfloat16 above 2⁻¹⁷, are multiples of 2⁻²⁴ already. A mean is off by 2⁻²⁵ at
most, a mean square by 2⁻³³. PSNR is rounded to thousandths of a dB, clip by clip.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Final, Self, TypeVar

from pydantic import Field

from pipeline.errors import StoreError
from pipeline.formatting import counted

MOST: Final = 1 << 43
"""Largest count in a unit's record; the sum over a million units fits 64 bits."""


Count = Annotated[int, Field(ge=0, le=MOST)]


Total = Annotated[int, Field(ge=-(1 << 512), le=1 << 512)]
"""Sum of integers, such as the squares of any float32; a float holds its size."""


SUM_BITS: Final = 24


SQUARE_BITS: Final = 32


WORST: Final = 3
"""Number of clips of lowest PSNR that are named."""


class Additive:
    """Base of dataclasses that add up field by field: numbers, tuples of them, and mappings."""

    __slots__ = ()

    def __add__(self, other: Self) -> Self:
        names = [each.name for each in fields(self)]  # type: ignore[arg-type]
        return replace(  # type: ignore[type-var]
            self, **{name: _sum(getattr(self, name), getattr(other, name)) for name in names}
        )


Key = TypeVar("Key", str, int)
Value = TypeVar("Value")


def merged(one: Mapping[Key, Value], other: Mapping[Key, Value]) -> dict[Key, Value]:
    """Return both mappings in the order of keys; values of a key that is in both are summed."""
    total = {**other, **one}
    total.update((key, _sum(one[key], other[key])) for key in one.keys() & other.keys())
    return dict(sorted(total.items()))


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, dict):
        return merged(one, other)
    if isinstance(one, tuple):
        if len(one) != len(other):
            raise StoreError(
                f"statistics of {len(one)} and of {len(other)} channels or levels do not add up:"
                " a record of the log is damaged; run `python -m pipeline verify`"
            )
        return tuple(_sum(a, b) for a, b in zip(one, other, strict=True))
    return one + other


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSums(Additive):
    """Sums over the posterior means of one KL tokenizer, by channel."""

    cells: Annotated[int, Field(ge=1, le=1 << 60)]
    """Number of cells of one channel."""
    sums: tuple[Total, ...]
    """Sum of each channel, in units of 2⁻²⁴."""
    squares: tuple[Total, ...]
    """Sum of squares of each channel, in units of 2⁻³²."""

    def __post_init__(self) -> None:
        if len(self.sums) != len(self.squares):
            raise ValueError("sums and squares must have the same number of channels")

    def mean(self) -> list[float]:
        """Return the mean of each channel."""
        return [total / (self.cells << SUM_BITS) for total in self.sums]

    def std(self) -> list[float]:
        """Return the population standard deviation of each channel."""
        spread = []
        for total, squares in zip(self.sums, self.squares, strict=True):
            # All are integers up to the division, so nothing cancels.
            scaled = (squares * self.cells << (2 * SUM_BITS - SQUARE_BITS)) - total * total
            variance = max(0, scaled) / (self.cells**2 << 2 * SUM_BITS)
            spread.append(math.sqrt(variance))
        return spread


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelCounts(Additive):
    """How often an FSQ tokenizer's channels took each of their levels."""

    counts: Annotated[tuple[tuple[Count, ...], ...], Field(min_length=1)]
    """Number of code indices by channel and level; channel 0 first."""

    @property
    def cells(self) -> int:
        """Number of code indices that were counted."""
        return sum(self.counts[0])

    def perplexity(self) -> list[float]:
        """Return the perplexity of each channel: 2 to the power of its entropy in bits."""
        return [perplexity(counts) for counts in self.counts]


def perplexity(counts: tuple[int, ...]) -> float:
    """Return the perplexity of what was counted; 0 if nothing was."""
    total = sum(counts)
    if not total:
        return 0.0
    return 2 ** math.fsum(-n / total * math.log2(n / total) for n in counts if n)


def clip_name(clip_id: str) -> str:
    """Return the name of a clip without its key, for the log: `<unit>#<16 hex digits>`.

    The log is never rewritten, and keys can be forgotten. `show --clip` finds a clip by its name.
    """
    digest = hashlib.sha256(clip_id.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{clip_id.partition('/')[0]}#{digest[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PsnrSums(Additive):
    """How well one tokenizer's tokens, decoded back, match the frames of drawn clips."""

    clips: Count = 0
    """Number of clips that were decoded back."""
    failed: Count = 0
    """Number of drawn clips that could not be decoded; no other field counts them."""
    millidecibels: Total = 0
    """Sum of the clips' PSNR in thousandths of a dB, each rounded to one."""
    counts: dict[int, Count] = field(default_factory=dict)
    """Number of clips by PSNR in whole dB, rounded down."""
    worst: tuple[tuple[int, str], ...] = ()
    """Thousandths of a dB and `clip_name` of the `WORST` clips of lowest PSNR, the worst first."""

    @classmethod
    def of(cls, clip_id: str, psnr_db: float | None) -> "PsnrSums":
        """Return the sums of one clip; None means that it could not be decoded."""
        if psnr_db is None:
            return cls(failed=1)
        value = round(1000 * psnr_db)
        return cls(
            clips=1,
            millidecibels=value,
            counts={value // 1000: 1},
            worst=((value, clip_name(clip_id)),),
        )

    def __add__(self, other: "PsnrSums") -> "PsnrSums":
        return replace(
            Additive.__add__(replace(self, worst=()), replace(other, worst=())),
            worst=tuple(sorted(self.worst + other.worst)[:WORST]),
        )

    @property
    def mean_db(self) -> float | None:
        """Mean over the clips in dB; None if there are no clips."""
        return self.millidecibels / (1000 * self.clips) if self.clips else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for programs, in dB."""
        worst = [{"clip": name, "psnr_db": value / 1000} for value, name in self.worst]
        return {
            "clips": self.clips,
            "failed": self.failed,
            "mean_db": self.mean_db,
            "counts": self.counts,
            "worst": worst,
        }

    def __str__(self) -> str:
        failed = f"{self.failed} could not be decoded back" if self.failed else ""
        if self.mean_db is None or not self.worst:
            return failed
        value, name = self.worst[0]
        return (
            f"{self.mean_db:.2f} dB on average over {counted(self.clips, 'clip')} decoded back;"
            f" {value / 1000:.2f} at least, of {name}" + (f"; {failed}" if failed else "")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketStatistics(Additive):
    """Statistics of the clips of one bucket; their size does not grow with the clips."""

    clips: Count = 0
    """Number of clips."""
    frames: Count = 0
    """Number of frames, padding included."""
    padded_frames: Count = 0
    """Number of frames that are padding: copies of a clip's last frame."""
    microseconds: Total = 0
    """Microseconds of source that the clips show, rounded clip by clip."""
    captions: Count = 0
    """Number of clips with a caption that is not empty."""
    caption_characters: Count = 0
    """Number of characters of all captions."""
    metas: Count = 0
    """Number of clips with other sidecars."""
    lengths: dict[Count, Count] = field(default_factory=dict)
    """Number of clips by frames, rounded up to a power of two."""
    sides: dict[Count, Count] = field(default_factory=dict)
    """Number of clips by the shorter side of the source in pixels, rounded up to one of
    `row_statistics.SIDES`."""
    rates: dict[Count, Count] = field(default_factory=dict)
    """Number of clips by frames per second of the source, rounded to an integer; 0 for images."""
    latents: dict[str, LatentSums] = field(default_factory=dict)
    """Sums over the latents, by KL tokenizer."""
    levels: dict[str, LevelCounts] = field(default_factory=dict)
    """Level counts, by FSQ tokenizer."""
    psnr: dict[str, PsnrSums] = field(default_factory=dict)
    """PSNR of the clips that were decoded back, by tokenizer."""
