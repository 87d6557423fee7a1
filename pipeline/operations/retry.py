"""Has quarantined samples tried again: reopens their units in the log, for the next run of the job.

The unit is what is done again, since it is what is committed: all its samples are, and those that
were well come out the same. Until a run has done it, the unit counts as it is. To be of use the run
has to differ: more time, memory or size allowed, another release, a source that was mended.
"""

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.dataset.commit_log import CommitLog
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.part_reader import open_parquet
from pipeline.dataset.records import Part, Reopened
from pipeline.errors import ConfigError
from pipeline.quarantine import REASONS
from pipeline.storage.store import Store


@dataclass(slots=True, kw_only=True)
class Retried:
    """What the next run of the job will do again."""

    output: str
    units: list[str] = field(default_factory=list)
    """Reopened by this call."""
    open_before: list[str] = field(default_factory=list)
    """Chosen, and open already."""
    reasons: Counter[str] = field(default_factory=Counter)
    """How many quarantined samples and clips were chosen, by reason."""
    clips: int = 0
    """Clips that the chosen units hold: they will be made again, too."""

    exit_code = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "output": self.output,
            "reopened": self.units,
            "open_before": self.open_before,
            "quarantined": dict(sorted(self.reasons.items())),
            "clips_made_again": self.clips,
        }

    def lines(self) -> list[str]:
        """Return the same for a person."""
        if not self.reasons:
            return [f"nothing in the quarantine of {self.output} is of that kind"]
        lines = [f"reopened   {unit}" for unit in self.units]
        lines += [f"open       {unit}: reopened before" for unit in self.open_before]
        chosen = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
        lines.append(f"for        {chosen}")
        lines.append(f"costs      {self.clips} sound clips of these units are made again, too")
        lines.append("next       run the job again, with the settings that are to help")
        return lines


def retry(store: Store, reasons: Sequence[str], key: str = "*") -> Retried:
    """Reopen the units in whose quarantine a reason stands.

    Args:
        store: the dataset's root; put-if-absent is needed.
        reasons: words of `pipeline.quarantine.REASONS`.
        key: pattern that a sample's key has to match, with `*`, `?` and `[…]`.

    Raises:
        ConfigError: there is no dataset, or no such reason.
        StoreError: the log or a quarantine table is damaged, or the store refuses.
    """
    for reason in reasons:
        if reason not in REASONS:
            raise ConfigError(f"--reason {reason}: not a reason; use one of {', '.join(REASONS)}")
    dataset = read_dataset(store)
    manifest = read_manifest(store)
    result = Retried(output=store.uri)
    chosen: list[Reopened] = []
    for unit in manifest.units():
        if unit.quarantine is None or unit.reasons.keys().isdisjoint(reasons):
            continue
        found = _reasons(store, unit.quarantine, reasons, key)
        if found:
            result.reasons += found
            result.clips += unit.counts.clips_written
            chosen.append(Reopened(unit=unit.unit, sources=unit.sources))
    if chosen:
        store.require_put_if_absent()
        log = CommitLog(store, fingerprint=dataset.fingerprint, run="retry")
        result.units = list(log.reopen(chosen))
        result.open_before = [u.unit for u in chosen if u.unit not in result.units]
    return result


def _reasons(store: Store, part: Part, reasons: Sequence[str], key: str) -> Counter[str]:
    """Return how often each of the reasons stands in a quarantine table, for matching keys."""
    with open_parquet(store, part.path) as parquet:
        rows = parquet.read(columns=["key", "reason"]).to_pylist()
    return Counter(
        row["reason"]
        for row in rows
        if row["reason"] in reasons and fnmatch.fnmatchcase(row["key"], key)
    )
