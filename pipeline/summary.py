"""What a run did, and whether plan, log and parts agree: the end of a job and its exit code."""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline.bucket_statistics import PsnrSums, merged
from pipeline.manifest import Manifest
from pipeline.records import REASONS, Counts, UnitRecord

BALANCED, UNBALANCED, BAD_CONFIG = 0, 1, 2
"""Exit codes: all accounted for; failed units, an imbalance or an error; nothing was started."""

BUDGET_AFTER_SAMPLES: Final = 100
"""Before so many samples a rate says nothing."""


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


def over_budget(tally: Tally, max_rate: float) -> str | None:
    """Return why a run should stop, if more of its samples are quarantined than it may have."""
    read, lost = tally.counts.samples_read, tally.counts.samples_quarantined
    if read < BUDGET_AFTER_SAMPLES or lost <= max_rate * read:
        return None
    reasons = ", ".join(f"{count} {reason}" for reason, count in tally.reasons.most_common(3))
    return (
        f"{lost} of {read} samples are quarantined, more than max_quarantine_rate = {max_rate:g};"
        f" most of all: {reasons}; see quarantine/ in the output"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The outcome of one run."""

    output: str
    run: str
    planned: int
    """Units of this driver's plan."""
    committed_before: int
    """Of these, those that the log covered when the run began."""
    done: Tally
    """Committed by this run."""
    lost_race: int
    """Units that this run did, too, but another driver committed first."""
    failed: Mapping[str, str]
    """Unit → why it is not committed."""
    total: Tally
    """All that the dataset holds now."""
    seconds: float
    tokenizers_waited: float | None = None
    """Share of their time that tokenizer actors waited for clips; None if none was tokenized."""
    put_back: int = 0
    """Times that a unit failed in a pass and went into another, or was given up."""
    untrained: Sequence[str] = ()
    """Tokenizers that ran on a seeded initialisation."""

    @property
    def exit_code(self) -> int:
        """0 when every planned unit is committed and every sample and clip accounted for."""
        return UNBALANCED if self.failed or self.total.problems else BALANCED

    @property
    def nothing_to_do(self) -> bool:
        """Whether the log covered the whole plan before the run began."""
        return self.committed_before == self.planned

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `summary.json`."""
        return {
            "output": self.output,
            "run": self.run,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "units": {
                "planned": self.planned,
                "committed_before": self.committed_before,
                "done": self.done.units,
                "lost_race": self.lost_race,
                "put_back": self.put_back,
                "failed": dict(self.failed),
            },
            "this_run": tally_dict(self.done),
            "dataset": tally_dict(self.total),
            "tokenizers_waited": self.tokenizers_waited and round(self.tokenizers_waited, 4),
            "untrained": list(self.untrained),
        }

    def lines(self) -> list[str]:
        """Return the summary as a person reads it."""
        if self.nothing_to_do:
            lines = [f"nothing to do: all {self.planned} units are committed in {self.output}"]
        else:
            done = f"{self.done.units} done in {format_duration(self.seconds)}"
            others = f"{self.committed_before} before · {len(self.failed)} failed"
            lines = [
                f"units      {self.planned} planned · {done} · {others}",
                *tally_lines(self.done),
                *_speed_lines(self.done, self.seconds),
            ]
            if self.tokenizers_waited is not None:
                share = f"{self.tokenizers_waited:.0%} of their time"
                lines.append(f"waiting    tokenizers waited {share} for decoded clips")
        if self.put_back:
            times = "once" if self.put_back == 1 else f"{self.put_back} times"
            lines.append(f"put back   {times} a unit did not come through a pass")
        if self.lost_race:
            lines.append(f"           {self.lost_race} more were committed by another driver first")
        for name in self.untrained if self.done.units else ():
            lines.append(f"untrained  {name}: seeded, not trained weights")
        lines += [f"failed     {unit}: {reason}" for unit, reason in sorted(self.failed.items())]
        lines += [f"IMBALANCE  {problem}" for problem in self.total.problems]
        verdict = "balanced" if self.exit_code == BALANCED else "NOT balanced"
        lines.append(
            f"dataset    {self.total.units} units · {self.total.counts.clips_written} clips"
            f" · {format_bytes(self.total.bytes)} · {verdict} · {self.output}"
        )
        again = "run the same command again to retry failed units; or: " if self.failed else ""
        lines.append(f"next       {again}{_python()} -m pipeline status {self.output}")
        return lines


def _python() -> str:
    """Return what to type for this interpreter: one below this folder by its path there."""
    interpreter, here = Path(sys.executable), Path.cwd()
    return str(interpreter.relative_to(here)) if interpreter.is_relative_to(here) else "python"


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


def _speed_lines(tally: Tally, seconds: float) -> list[str]:
    """Return clips per second: of the whole run by the clock, of each stage by its own work."""
    clips = tally.counts.clips_written
    if not clips or not seconds:
        return []
    stages = [
        f"{stage} {clips / worked:.1f}" for stage, worked in tally.timings.items() if worked > 0
    ]
    return [f"speed      {clips / seconds:.1f} clips/s; one process by stage: {' · '.join(stages)}"]


def format_duration(seconds: float) -> str:
    """Return `12.3 s`, or from a minute on `0:02:05`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def format_bytes(count: float) -> str:
    """Return a size in B, kB, MB, GB or TB of powers of 1000."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
