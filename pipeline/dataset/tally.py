"""Sums over unit records: where samples and clips went, and whether they add up."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.dataset.manifest import Manifest
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.statistics import PsnrSums, merged
from pipeline.formatting import format_bytes
from pipeline.quarantine import REASONS


@dataclass(slots=True)
class Tally:
    """Sums over unit records: where samples and clips went, what was written, how long it took."""

    units: int = 0
    counts: Counts = field(default_factory=Counts)
    reasons: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    """Of files: a merged part counts once."""
    merged: set[str] = field(default_factory=set)
    """Paths of merged parts."""
    timings: Counter[str] = field(default_factory=Counter)
    """Seconds of work by stage, over all processes."""
    psnr: dict[str, PsnrSums] = field(default_factory=dict)
    """By tokenizer, of the clips that were decoded back."""
    problems: list[str] = field(default_factory=list)
    """Units in which something does not add up; empty unless there is a fault in this program."""

    def add(self, unit: UnitRecord) -> None:
        """Take in one unit, and check it."""
        self.units += 1
        self.counts += unit.counts
        self.reasons.update(unit.reasons)
        for part in unit.parts:
            self.bytes += 0 if part.path in self.merged else part.bytes
            if part.place is not None:
                self.merged.add(part.path)
        self.timings.update(unit.timings)
        for bucket in (unit.statistics or {}).values():
            self.psnr = merged(self.psnr, bucket.psnr)
        self.problems += [f"{unit.unit}: {problem}" for problem in _imbalances(unit)]

    @classmethod
    def of(cls, manifest: Manifest) -> "Tally":
        """Return the sums over all that is committed."""
        tally = cls()
        for unit in manifest.units():
            tally.add(unit)
        return tally


def _imbalances(unit: UnitRecord) -> list[str]:
    counts, found = unit.counts, []
    if imbalance := counts.imbalance():
        found.append(imbalance)
    rows = sum(part.rows for part in unit.parts)
    if rows != counts.clips_written:
        found.append(f"{counts.clips_written} clips written, {rows} rows in its parts")
    lost = counts.samples_quarantined + counts.clips_quarantined
    recorded = unit.quarantine.rows if unit.quarantine else 0
    if not lost == recorded == sum(unit.reasons.values()):
        found.append(
            f"{lost} samples and clips quarantined, {recorded} rows in its quarantine,"
            f" {sum(unit.reasons.values())} reasons"
        )
    return found


def tally_dict(tally: Tally) -> dict[str, Any]:
    """Return a tally as plain values."""
    return {
        "units": tally.units,
        **{name: getattr(tally.counts, name) for name in Counts.__slots__},
        "reasons": dict(sorted(tally.reasons.items())),
        "bytes": tally.bytes,
        "seconds_of_work": {k: round(v, 3) for k, v in sorted(tally.timings.items())},
        "psnr": {name: sums.to_dict() for name, sums in tally.psnr.items()},
    }


def tally_lines(tally: Tally) -> list[str]:
    """Return where samples and clips went, one line each, the quarantine's reasons, and PSNR."""
    counts = tally.counts
    samples = f"{counts.samples_filtered} filtered + {counts.samples_quarantined} quarantined"
    clips = f"{counts.clips_filtered} filtered + {counts.clips_quarantined} quarantined"
    kept = counts.samples_with_clips
    lines = [
        f"samples    {counts.samples_read} read = {kept} with clips + {samples}",
        f"clips      {counts.clips_seen} seen = {counts.clips_written} written + {clips}",
        f"bytes      {format_bytes(tally.bytes)} in parts",
    ]
    lines += [
        f"quarantine {count:5d} {reason}: {REASONS.get(reason, '?')}"
        for reason, count in tally.reasons.most_common()
    ]
    lines += [f"psnr       {name}: {sums}" for name, sums in tally.psnr.items()]
    return lines
