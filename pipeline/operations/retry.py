"""Reopens units with quarantined or filtered samples, so that the next run does them again.

The log commits units, so a whole unit is processed again, including the samples that succeeded. Its
present rows count until a run has replaced them. A retry helps only if something changed: a higher
limit of time, memory or size, another release, or a repaired source.
"""

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.part_reader import open_parquet
from pipeline.dataset.records import Part, Reopened
from pipeline.errors import ConfigError
from pipeline.formatting import counted, labelled
from pipeline.operations.outcome import Outcome
from pipeline.quarantine import FILTERED, REASONS
from pipeline.storage.store import Store


@dataclass(slots=True, kw_only=True)
class Retried(Outcome):
    """Units that the next run of the job processes again."""

    output: str
    reopened: list[str] = field(default_factory=list)
    """Units that this call reopened."""
    already_open: list[str] = field(default_factory=list)
    """Selected units that an earlier call reopened."""
    quarantined: Counter[str] = field(default_factory=Counter)
    """Number of selected samples and clips by reason."""
    clips: int = 0
    """Number of committed clips of the selected units, which are also processed again."""

    def lines(self) -> list[str]:
        """Return the lines to print."""
        if not self.quarantined:
            return [f"nothing in the quarantine of {self.output} matches"]
        selected = (f"{count} {reason}" for reason, count in self.quarantined.most_common())
        return [
            *(labelled("reopened", unit) for unit in self.reopened),
            *(labelled("open", f"{unit}: reopened earlier") for unit in self.already_open),
            labelled("for", ", ".join(selected)),
            labelled(
                "costs", f"{counted(self.clips, 'valid clip')} of these units processed again"
            ),
            labelled("next", "run the job again, with the settings that should help"),
        ]


def retry(store: Store, reasons: Sequence[str], key: str = "*") -> Retried:
    """Reopen the units whose quarantine holds one of some reasons.

    Args:
        store: the dataset's root; put-if-absent is needed.
        reasons: words of `REASONS` or `FILTERED` of `pipeline.quarantine`.
        key: pattern that a sample's key must match, with `*`, `?` and `[…]`.

    Raises:
        ConfigError: there is no dataset, or a reason does not exist.
        StoreError: the log or a quarantine table is damaged, or the store refuses.
    """
    for reason in reasons:
        if reason not in (known := REASONS | FILTERED):
            raise ConfigError(f"--reason {reason}: no such reason; use one of {', '.join(known)}")
    dataset = read_dataset(store)
    manifest = read_manifest(store)
    result = Retried(output=store.uri)
    selected: list[Reopened] = []
    for unit in manifest.units():
        if unit.quarantine is None or unit.reasons.keys().isdisjoint(reasons):
            continue
        if found := _matching(store, unit.quarantine, reasons, key):
            result.quarantined += found
            result.clips += unit.counts.clips_written
            selected.append(Reopened(unit=unit.unit, sources=unit.sources))
    if selected:
        store.require_put_if_absent()
        log = CommitLog(store, fingerprint=dataset.fingerprint, run="retry")
        result.reopened = list(log.reopen(selected))
        result.already_open = [u.unit for u in selected if u.unit not in result.reopened]
    return result


def _matching(store: Store, part: Part, reasons: Sequence[str], key: str) -> Counter[str]:
    """Return the number of rows of a quarantine table by reason, for matching keys."""
    with open_parquet(store, part.path, num_bytes=part.bytes) as parquet:
        rows = parquet.read(columns=["key", "reason"]).to_pylist()
    return Counter(
        row["reason"]
        for row in rows
        if row["reason"] in reasons and fnmatch.fnmatchcase(row["key"], key)
    )
