"""The contents of the commit log: parts, counts, and the record of one unit.

Types say which values a record may have. Whoever parses one checks them (`pipeline.records`), so
that no reader has to: paths stay in the dataset, and numbers in bounds.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated

from pydantic import Field, StringConstraints

from pipeline.dataset.statistics import Additive, BucketStatistics, Count
from pipeline.records import Range, to_json

ForgottenDigest = Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{32}\z")]
"""Digest of a key or source that was forgotten; see `pipeline.dataset.log.forgotten`."""


Rows = Annotated[int, Field(ge=0, le=1 << 26)]
"""Number of rows of one file."""


PartPath = Annotated[
    str,
    StringConstraints(
        max_length=1024,
        pattern=r"\A(?:data/(?:[0-9]+|all)x[0-9]+x[0-9]+|quarantine)/[^/\\\x00-\x1f]+\.parquet\z",
    ),
]
"""Path of a file in `data/<bucket>/` or `quarantine/`, relative to the dataset's root."""


BucketName = Annotated[
    str, StringConstraints(pattern=r"\A(?:(?:[0-9]{1,9}|all)x[0-9]{1,9}x[0-9]{1,9})?\z")
]
"""Name of a bucket; empty for a quarantine table."""


Rule = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
"""Rule that drops clips: a key of `pipeline.quarantine.DROPPED` or `FILTERED`, or the text of a
rule of `clip.filter`."""


Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Additive):
    """What became of every sample and clip of a unit; adds up over units."""

    samples_read: Count = 0
    samples_with_clips: Count = 0
    samples_filtered: Count = 0
    samples_quarantined: Count = 0
    samples_forgotten: Count = 0
    clips_seen: Count = 0
    clips_written: Count = 0
    clips_filtered: Count = 0
    clips_quarantined: Count = 0
    clips_forgotten: Count = 0
    microseconds_decoded: Count = 0
    """Microseconds of source that the clips seen show, rounded clip by clip as in the statistics of
    the rows, which count those that are kept."""

    def imbalance(self) -> str | None:
        """Return what does not add up, or None if every sample and clip is accounted for."""
        samples = self.samples_with_clips + self.samples_filtered + self.samples_quarantined
        samples += self.samples_forgotten
        if samples != self.samples_read:
            return f"{self.samples_read} samples read, {samples} accounted for"
        clips = self.clips_written + self.clips_filtered + self.clips_quarantined
        clips += self.clips_forgotten
        if clips != self.clips_seen:
            return f"{self.clips_seen} clips seen, {clips} accounted for"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpan:
    """Which rows of a file belong to one unit, in a merged part or one with forgotten rows."""

    first_row: Rows
    """Number of the unit's first row in the file, from 0."""
    of_rows: Rows
    """Number of rows of the whole file, including those that no longer count."""
    left_out: tuple[tuple[Rows, Rows], ...] = ()
    """Half-open ranges of rows of the file, from the first row on, that were forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A unit's rows in one Parquet file of the output."""

    path: PartPath
    """Path of the file, relative to the dataset's root."""
    bucket: BucketName
    """Name of the bucket; empty for a quarantine table."""
    rows: Rows
    """Number of rows of the unit."""
    bytes: Count
    """Size of the file."""
    sha256: Annotated[str, StringConstraints(pattern=r"\A[0-9a-f]{64}\z")]
    """SHA-256 of the file, as 64 hex digits."""
    place: RowSpan | None = None
    """Place of the rows in a merged part, which holds rows of several units; None if all rows of
    the file belong to this unit."""

    @property
    def first_row(self) -> int:
        """Number of the first of the rows in the file."""
        return self.place.first_row if self.place else 0

    @property
    def left_out(self) -> tuple[Range, ...]:
        """Ranges of rows of the file, between those of the unit, that were forgotten."""
        return self.place.left_out if self.place else ()

    @property
    def spans(self) -> Iterator[Range]:
        """Ranges of rows of the file that belong to the unit and count, in order."""
        start = self.first_row
        end = start + self.rows + sum(stop - first for first, stop in self.left_out)
        for first, stop in (*self.left_out, (end, end)):
            if start < first:
                yield start, first
            start = stop


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRecord:
    """What the commit log says of one unit; its size does not grow with the clips."""

    unit: str
    """Id of the unit."""
    sources: tuple[str, ...]
    """URIs that the unit was read from, or ranges of rows of a list."""
    parts: tuple[Part, ...]
    """Parts with the unit's rows."""
    quarantine: Part | None
    """Quarantine table, also of filtered samples; None if there are none of both."""
    counts: Counts
    """Numbers of samples and clips by outcome, such as written, filtered or quarantined."""
    reasons: dict[str, Count]
    """Number of quarantined samples and clips, and of filtered samples, by reason."""
    dropped: dict[Rule, Count] = field(default_factory=dict)
    """Number of filtered clips by the rule that dropped them."""
    timings: dict[str, Seconds] = field(default_factory=dict)
    """Seconds of work by stage."""
    statistics: dict[str, BucketStatistics]
    """Statistics of the unit's rows, by bucket."""

    @property
    def files(self) -> tuple[Part, ...]:
        """Parts and quarantine table of the unit."""
        return self.parts if self.quarantine is None else (*self.parts, self.quarantine)


def state_of(record: UnitRecord) -> str:
    """Return the name of the state of a unit's rows: `<unit>@<16 hex digits>`.

    The digits are of the record without what `compact` and `forget` change. Every attempt at a unit
    has other timings, so a unit that was done again has another state.
    """
    lasting = replace(record, parts=(), quarantine=None, counts=Counts(), reasons={})
    digest = hashlib.sha256(to_json(lasting)).hexdigest()
    return f"{record.unit}@{digest[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopened:
    """A committed unit that the next run does again; until then its record counts."""

    unit: str
    """Id of the unit."""
    sources: tuple[str, ...]
    """Sources of its record, from which the next plan makes the same unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsMoved:
    """A committed unit whose rows, unchanged, are in other parts from this record on."""

    unit: str
    """Id of the unit."""
    parts: tuple[Part, ...]
    """All parts of the unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsForgotten:
    """A committed unit of which samples were forgotten; its new values replace those before."""

    unit: str
    """Id of the unit."""
    parts: tuple[Part, ...]
    """All parts of the unit that have rows which count."""
    quarantine: Part | None
    """Quarantine table, written again without the forgotten samples; None if none is left."""
    counts: Counts
    """Counts of the unit, with the forgotten samples and clips counted as forgotten."""
    reasons: dict[str, Count]
    """Number of rows of the quarantine table by reason."""

    @property
    def files(self) -> tuple[Part, ...]:
        """Parts and quarantine table of the unit."""
        return self.parts if self.quarantine is None else (*self.parts, self.quarantine)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A table that is about to name the parts of one state of the log."""

    format: str
    """Format of the table: `delta` or `iceberg`."""
    base: int
    """Version of the table that the new one follows; 0 if there is none."""
    number: int
    """Number of the newest log record that the table includes."""
