"""The numbers of a dataset or of a run, summed over unit records: the one model of them.

The job's summary, `status`, the report, `stats` and the card all show these numbers. All are sums
of what units recorded when they were committed, so they do not depend on the order of commits.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.statistics import BucketStatistics, merged
from pipeline.formatting import format_bytes, labelled
from pipeline.quarantine import REASONS


@dataclass(slots=True)
class Tally:
    """Sums over unit records: where samples and clips went, what was written, how long it took."""

    units: int = 0
    """Number of units."""
    counts: Counts = field(default_factory=Counts)
    """Numbers of samples and clips by what became of them."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of quarantined samples and clips by reason."""
    rows: Counter[str] = field(default_factory=Counter)
    """Number of rows by bucket."""
    bucket_bytes: Counter[str] = field(default_factory=Counter)
    """Bytes of files by bucket; a merged part counts once."""
    merged: set[str] = field(default_factory=set)
    """Paths of merged parts."""
    timings: Counter[str] = field(default_factory=Counter)
    """Seconds of work by stage, summed over all processes."""
    buckets: dict[str, BucketStatistics] = field(default_factory=dict)
    """Statistics of the rows by bucket, in the order of names."""
    problems: list[str] = field(default_factory=list)
    """Numbers that do not add up, by unit. Empty unless this program has a bug."""

    @classmethod
    def of(cls, manifest: Manifest) -> "Tally":
        """Return the sums over all that is committed."""
        tally = cls()
        for unit in manifest.units():
            tally.add(unit)
        return tally

    def add(self, unit: UnitRecord) -> None:
        """Add the numbers of one unit, and check that they add up."""
        self.units += 1
        self.counts += unit.counts
        self.reasons.update(unit.reasons)
        for part in unit.parts:
            self.rows[part.bucket] += part.rows
            self.bucket_bytes[part.bucket] += 0 if part.path in self.merged else part.bytes
            if part.place is not None:
                self.merged.add(part.path)
        self.timings.update(unit.timings)
        self.buckets = merged(self.buckets, unit.statistics)
        self.problems += [f"{unit.unit}: {problem}" for problem in _imbalances(unit)]

    @property
    def bytes(self) -> int:
        """Bytes of all parts."""
        return self.bucket_bytes.total()

    @property
    def total(self) -> BucketStatistics:
        """Statistics of the rows of all buckets."""
        return sum(self.buckets.values(), BucketStatistics())


def _imbalances(unit: UnitRecord) -> Iterator[str]:
    counts = unit.counts
    if imbalance := counts.imbalance():
        yield imbalance
    rows = sum(part.rows for part in unit.parts)
    if rows != counts.clips_written:
        yield f"{counts.clips_written} clips written, {rows} rows in its parts"
    lost = counts.samples_quarantined + counts.clips_quarantined
    recorded = unit.quarantine.rows if unit.quarantine else 0
    if not lost == recorded == sum(unit.reasons.values()):
        yield (
            f"{lost} samples and clips quarantined, {recorded} rows in its quarantine,"
            f" {sum(unit.reasons.values())} reasons"
        )


def tally_dict(tally: Tally) -> dict[str, Any]:
    """Return a tally as plain values."""
    return {
        "units": tally.units,
        **{name: getattr(tally.counts, name) for name in Counts.__slots__},
        "reasons": dict(sorted(tally.reasons.items())),
        "bytes": tally.bytes,
        "seconds_of_work": {k: round(v, 3) for k, v in sorted(tally.timings.items())},
        "psnr": {name: sums.to_dict() for name, sums in tally.total.psnr.items()},
    }


def tally_lines(tally: Tally) -> list[str]:
    """Return where samples and clips went, one line each, the quarantine's reasons, and PSNR."""
    counts = tally.counts
    samples = f"{counts.samples_filtered} filtered + {counts.samples_quarantined} quarantined"
    clips = f"{counts.clips_filtered} filtered + {counts.clips_quarantined} quarantined"
    kept = counts.samples_with_clips
    lines = [
        labelled("samples", f"{counts.samples_read} read = {kept} with clips + {samples}"),
        labelled("clips", f"{counts.clips_seen} seen = {counts.clips_written} written + {clips}"),
        labelled("bytes", f"{format_bytes(tally.bytes)} in parts"),
    ]
    lines += [
        labelled("quarantine", f"{count:5d} {reason}: {REASONS.get(reason, '?')}")
        for reason, count in tally.reasons.most_common()
    ]
    lines += [labelled("psnr", f"{name}: {sums}") for name, sums in tally.total.psnr.items()]
    return lines
