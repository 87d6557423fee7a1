"""What the commit log is made of: parts, counts, and the record of one unit."""

from dataclasses import dataclass, field

from pipeline.dataset.statistics import BucketStatistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Where every sample and clip of a unit went; adds up over units."""

    samples_read: int = 0
    samples_with_clips: int = 0
    samples_filtered: int = 0
    samples_quarantined: int = 0
    clips_seen: int = 0
    clips_written: int = 0
    clips_filtered: int = 0
    clips_quarantined: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{k: getattr(self, k) + getattr(other, k) for k in self.__slots__})

    def imbalance(self) -> str | None:
        """Return what does not add up, or None when every sample and clip is accounted for."""
        samples = self.samples_with_clips + self.samples_filtered + self.samples_quarantined
        if samples != self.samples_read:
            return f"{self.samples_read} samples read, {samples} accounted for"
        clips = self.clips_written + self.clips_filtered + self.clips_quarantined
        if clips != self.clips_seen:
            return f"{self.clips_seen} clips seen, {clips} accounted for"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpan:
    """Where in a merged part the rows of one unit stand, one after another."""

    first_row: int
    of_rows: int
    """Rows of the whole file, those of no unit that counts included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A unit's rows in one Parquet file of the output; the path is relative to the dataset's root.

    `bytes` and `sha256` are of the file, `rows` of the unit.
    """

    path: str
    bucket: str
    rows: int
    bytes: int
    sha256: str
    place: RowSpan | None = None
    """In a merged part, which holds rows of several units; None: the file is this unit's alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """What the commit log keeps of one unit; nothing in it grows with the clips."""

    unit: str
    sources: tuple[str, ...]
    parts: tuple[Part, ...]
    quarantine: Part | None
    counts: Counts
    reasons: dict[str, int]
    timings: dict[str, float] = field(default_factory=dict)
    statistics: dict[str, BucketStatistics]
    """Statistics of the unit's rows, by bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """A committed unit that is to be done again; until then its record counts."""

    unit: str
    sources: tuple[str, ...]
    """Those of its record: what the next plan makes the same unit of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsMoved:
    """A committed unit whose rows, the same as before, stand in other parts from a record on."""

    unit: str
    parts: tuple[Part, ...]
    """All of the unit's."""
