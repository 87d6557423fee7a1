"""The commit log as a driver writes it: the first to write a number commits, all others adapt.

Record n + 1 is put only if absent, by a writer that has read every record up to n and left out
all that they commit. So no unit is committed twice and no file by two different units, for any
number of drivers. A number that is taken is not a failure: the writer reads its record and tries
the rest under the next number. The token in a record decides whether it is ours, never the store's
answer, which can get lost.

A record can reopen a committed unit. The unit counts as it is until a later record commits it
again; of two drivers that do so, the first wins.

A record can also say that rows of committed units are in other parts. A writer puts it only if no
earlier record changed these units since their parts were read, and none dropped the file.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.committed import Committed
from pipeline.dataset.format_version import versioned_json
from pipeline.dataset.log_records import (
    LogRecord,
    parse_record,
    read_records,
    record_path,
)
from pipeline.dataset.manifest import read_checkpoint
from pipeline.dataset.records import PartsMoved, Reopened, UnitRecord
from pipeline.errors import DatasetMismatch
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of the units of one `CommitLog.append`; every unit is in one of the three."""

    ours: tuple[str, ...]
    """Units that this log object committed."""

    lost: tuple[str, ...] = ()
    """Units that another driver committed meanwhile: its parts count, ours are orphaned files."""

    overlapping: tuple[str, ...] = ()
    """Units that are not committed, because a unit of another driver, planned from another
    listing, covers some of their files. The next plan holds the files that are left."""


class CommitLog:
    """What is committed, and the means to add to it. Not thread-safe.

    Args:
        store: the dataset's root; it must support put-if-absent.
        fingerprint: fingerprint of the dataset; records of another one are refused.
        run: name of this run, written into its records for people.

    Attributes:
        number: number of the newest record that was read.
        committed: units and sources that are covered.
        changed: number of the newest record about a unit, by unit. It knows the records after the
            newest manifest at the time when this object was made.

    Raises:
        DatasetMismatch: the log belongs to another fingerprint.
        ConfigError: the log is of another format version.
        StoreError: the log cannot be read, or has a gap.
    """

    def __init__(self, store: Store, *, fingerprint: str, run: str = "") -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._run = run
        self._token = uuid.uuid4().hex
        self._ours: set[str] = set()
        self._merged: set[str] = set()
        self._dropped: set[str] = set()
        self.changed: dict[str, int] = {}
        self.committed = Committed()
        checkpoint = read_checkpoint(store, columns=["unit", "sources"])
        self._check_fingerprint(checkpoint.fingerprint, "the newest manifest")
        self.number = checkpoint.number
        units, sources = (checkpoint.table[name].to_pylist() for name in ("unit", "sources"))
        for unit, read_from in zip(units, sources, strict=True):
            self.committed.add(unit, read_from)
            if unit in checkpoint.reopened:
                self.committed.reopen(Reopened(unit=unit, sources=tuple(read_from)))
        self.refresh()

    def refresh(self) -> None:
        """Read what other drivers committed since."""
        for record in read_records(self._store, self.number):
            self._apply(record)

    def append(self, units: Iterable[UnitRecord]) -> Appended:
        """Commit a group of units in one record.

        Units that are committed already are left out, and so are those that share a source with a
        committed one. Calling again with the same units after an error is safe.

        Raises:
            StateUnknown: the store does not answer; the units may or may not be committed.
            StoreError: the store refused.
        """
        wanted = list(units)
        while fresh := self._fresh(wanted):
            self._put(units=tuple(fresh))
        return self._outcome(wanted)

    def reopen(self, units: Iterable[Reopened]) -> tuple[str, ...]:
        """Mark committed units for reprocessing by the next run that plans them.

        Returns:
            Ids of the units that this call reopened; the others are not committed, or are reopened
            already.

        Raises:
            StateUnknown: the store does not answer; the units may or may not be reopened.
            StoreError: the store refused.
        """
        wanted = list(units)
        while fresh := [unit for unit in wanted if unit.unit in self.committed.units]:
            if self._put(reopened=tuple(fresh)):
                return tuple(unit.unit for unit in fresh)
        return ()

    def move(self, units: Sequence[PartsMoved], known: Mapping[str, int]) -> bool:
        """Commit that rows of units are in other parts: of all these units or of none.

        Args:
            units: units with the parts that they have from now on; the files exist in the store.
            known: number of the record up to which the caller knows a unit, by unit. The caller
                must read the unit after this object was made.

        Returns:
            Whether the move is committed. It is not if a record after `known` is about one of the
            units, or if one dropped a merged part that is named here.

        Raises:
            StateUnknown: the store does not answer; the move may or may not be committed.
            StoreError: the store refused.
        """
        paths = {part.path for unit in units for part in unit.parts if part.place}
        while paths.isdisjoint(self._dropped) and all(
            self.changed.get(unit.unit, 0) <= known[unit.unit] for unit in units
        ):
            if self._put(moved=tuple(units)):
                return True
        return False

    def drop(self, paths: Iterable[str]) -> tuple[str, ...]:
        """Ensure that no record ever names merged parts that no record names yet.

        Args:
            paths: paths that no record older than this object names.

        Returns:
            Paths that may be deleted; a record names the others by now.

        Raises:
            StateUnknown: the store does not answer; nothing may be deleted.
            StoreError: the store refused.
        """
        wanted = list(paths)
        while fresh := [path for path in wanted if path not in self._merged]:
            if self._put(dropped=tuple(fresh)):
                return tuple(fresh)
        return ()

    def _put(self, **content: Any) -> bool:
        """Try to write the next record, apply the one that exists, return whether it is ours.

        Args:
            content: entries of the record as tuples, by field of `LogRecord`.
        """
        record = LogRecord(
            number=self.number + 1,
            token=self._token,
            run=self._run,
            fingerprint=self._fingerprint,
            **content,
        )
        path = record_path(record.number)
        data = self._store.put_or_read(path, versioned_json(record))
        found = parse_record(data, record.number, self._store.locate(path))
        self._apply(found)
        return found.token == self._token

    def _fresh(self, wanted: Sequence[UnitRecord]) -> list[UnitRecord]:
        """Return the units that may still be committed, each once."""
        fresh: list[UnitRecord] = []
        inside = Committed()
        for unit in wanted:
            if not (self.committed.covers(unit) or inside.covers(unit)):
                inside.add(unit.unit, unit.sources)
                fresh.append(unit)
        return fresh

    def _outcome(self, wanted: Sequence[UnitRecord]) -> Appended:
        names = list(dict.fromkeys(unit.unit for unit in wanted))
        known = self.committed.units
        return Appended(
            ours=tuple(name for name in names if name in self._ours),
            lost=tuple(name for name in names if name in known and name not in self._ours),
            overlapping=tuple(name for name in names if name not in known),
        )

    def _apply(self, record: LogRecord) -> None:
        self._check_fingerprint(record.fingerprint, f"record {record.number}")
        for unit in record.units:
            self.committed.add(unit.unit, unit.sources)
        for reopened in record.reopened:
            self.committed.reopen(reopened)
        about: tuple[UnitRecord | Reopened | PartsMoved, ...]
        about = (*record.units, *record.reopened, *record.moved)
        self.changed.update((unit.unit, record.number) for unit in about)
        self._merged.update(part.path for unit in record.moved for part in unit.parts if part.place)
        self._dropped.update(record.dropped)
        if record.token == self._token:
            self._ours.update(unit.unit for unit in record.units)
        self.number = record.number

    def _check_fingerprint(self, found: str | None, where: str) -> None:
        if found not in (None, self._fingerprint):
            raise DatasetMismatch(
                f"{self._store.uri}: log: {where} has fingerprint {found}, this run has"
                f" {self._fingerprint}; write to another output"
            )
