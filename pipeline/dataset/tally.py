"""The numbers of a dataset or of a run, summed over unit records: the one model of them.

The job's summary, `status`, the report, `stats` and the card all show these numbers. All are sums
of what units recorded when they were committed, so they do not depend on the order of commits.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pipeline.dataset.log.manifest import Manifest
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.statistics import BucketStatistics, merged
from pipeline.formatting import format_bytes, kept_of_decoded, labelled
from pipeline.quarantine import DROPPED, FILTERED, REASONS, TOO_SHORT

EXAMPLES: Final = 3
"""Maximum number of tables and of examples of each reason."""


@dataclass(slots=True)
class Tally:
    """Sums over unit records: where samples and clips went, what was written, how long it took."""

    units: int = 0
    """Number of units."""
    counts: Counts = field(default_factory=Counts)
    """Numbers of samples and clips by outcome, such as written, filtered or quarantined."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Number of quarantined samples and clips by reason."""
    filtered: Counter[str] = field(default_factory=Counter)
    """Number of filtered samples by reason."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Number of filtered clips by the rule that dropped them."""
    tables: dict[str, list[str]] = field(default_factory=dict)
    """Paths of the first quarantine tables with each reason, also of filtered samples."""
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
        for reason, count in unit.reasons.items():
            (self.filtered if reason in FILTERED else self.reasons)[reason] += count
            paths = self.tables.setdefault(reason, [])
            if unit.quarantine and len(paths) < EXAMPLES:
                paths.append(unit.quarantine.path)
        for part in unit.parts:
            self.rows[part.bucket] += part.rows
            self.bucket_bytes[part.bucket] += 0 if part.path in self.merged else part.bytes
            if part.place is not None:
                self.merged.add(part.path)
        self.dropped.update(unit.dropped)
        self.timings.update(unit.timings)
        self.buckets = merged(self.buckets, unit.statistics)
        self.problems += [f"{unit.unit}: {problem}" for problem in _imbalances(unit)]

    @property
    def bytes(self) -> int:
        """Bytes of all parts."""
        return self.bucket_bytes.total()

    @property
    def seconds_kept(self) -> float:
        """Seconds of source that the rows show."""
        return self.total.microseconds / 1e6

    @property
    def seconds_decoded(self) -> float:
        """Seconds of source that were decoded: those of all clips seen."""
        return self.counts.microseconds_decoded / 1e6

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
    reasons = sum(unit.reasons.values())
    if not lost + counts.samples_filtered == recorded == reasons:
        yield (
            f"{lost} samples and clips quarantined, {counts.samples_filtered} samples filtered,"
            f" {recorded} rows in its quarantine, {reasons} reasons"
        )
    filtered = sum(count for reason, count in unit.reasons.items() if reason in FILTERED)
    if filtered != counts.samples_filtered:
        yield f"{counts.samples_filtered} samples filtered, {filtered} with a reason"
    if (dropped := sum(unit.dropped.values())) != counts.clips_filtered:
        yield f"{counts.clips_filtered} clips filtered, {dropped} by rule"
    kept = sum(statistics.microseconds for statistics in unit.statistics.values())
    if kept > counts.microseconds_decoded:
        yield f"{kept} µs of source kept, {counts.microseconds_decoded} decoded"


def dropped_by(rule: str) -> str:
    """Return a rule that drops clips, with its meaning if it is a word."""
    meaning = DROPPED.get(rule) or FILTERED.get(rule)
    return f"clips by {rule}" + (f": {meaning}" if meaning else "")


def tally_dict(tally: Tally) -> dict[str, Any]:
    """Return a tally as plain values."""
    return {
        "units": tally.units,
        **{name: getattr(tally.counts, name) for name in Counts.__slots__},
        "reasons": dict(sorted(tally.reasons.items())),
        "filtered": dict(sorted(tally.filtered.items())),
        "dropped": dict(sorted(tally.dropped.items())),
        "seconds_kept": tally.seconds_kept,
        "seconds_decoded": tally.seconds_decoded,
        "bytes": tally.bytes,
        "seconds_of_work": {k: round(v, 3) for k, v in sorted(tally.timings.items())},
        "psnr": {name: sums.to_dict() for name, sums in tally.total.psnr.items()},
    }


def tally_lines(tally: Tally, examples: Mapping[str, Sequence[tuple[str, str]]]) -> list[str]:
    """Return where samples and clips went, one line each, the reasons with examples, and PSNR.

    Args:
        tally: the numbers.
        examples: reason → names and details, from `pipeline.dataset.examples`.
    """
    counts = tally.counts
    samples = f"{counts.samples_filtered} filtered + {counts.samples_quarantined} quarantined"
    samples += f" + {counts.samples_forgotten} forgotten" * bool(counts.samples_forgotten)
    clips = f"{counts.clips_filtered} filtered + {counts.clips_quarantined} quarantined"
    clips += f" + {counts.clips_forgotten} forgotten" * bool(counts.clips_forgotten)
    kept = counts.samples_with_clips
    lines = [
        labelled("samples", f"{counts.samples_read} read = {kept} with clips + {samples}"),
        labelled("clips", f"{counts.clips_seen} seen = {counts.clips_written} written + {clips}"),
        labelled("source", kept_of_decoded(tally.seconds_kept, tally.seconds_decoded)),
        labelled("bytes", f"{format_bytes(tally.bytes)} in parts"),
    ]
    for label, reasons in (("filtered", tally.filtered), ("quarantine", tally.reasons)):
        for reason, count in reasons.most_common():
            meaning = REASONS.get(reason) or FILTERED.get(reason, "?")
            lines.append(labelled(label, f"{count:5d} {reason}: {meaning}"))
            lines += [
                labelled("", f"      {name}: {detail}" if name else f"      {detail}")
                for name, detail in examples.get(reason, ())
            ]
    for rule, count in tally.dropped.most_common():
        text = dropped_by(rule)
        if rule == TOO_SHORT:  # the samples are listed above with the meaning of the rule
            text = f"clips by {rule}: one for each such sample"
            text += ", also for those forgotten" * (count != tally.filtered[rule])
        lines.append(labelled("dropped", f"{count:5d} {text}"))
    lines += [labelled("psnr", f"{name}: {sums}") for name, sums in tally.total.psnr.items()]
    return lines
