"""The commit log as a driver writes it: the first to write a number commits, all others adapt.

Record n + 1 is put only if absent, by a writer that has read every record up to n and left out
all that they commit. So no unit is committed twice and no file by two different units, for any
number of drivers. A number that is taken is not a failure: the writer reads its record and tries
the rest under the next number. The token in a record decides whether it is ours, never the store's
answer, which can get lost.

A record can reopen a committed unit. The unit counts as it is until a later record commits it
again; of two drivers that do so, the first wins. Only work that was planned after the record
answers it: what a driver began before is left out, even if the driver stood still meanwhile or got
no answer to its own record.

A record can also say that rows of committed units are in other parts. A writer puts it only if no
earlier record changed these units since their parts were read.

A file is deleted only after a record dropped it, and a record drops only files that no earlier one
names. No later record names a dropped file, because its writer has read the drop, and because no
name is written twice. So every file that the log names exists, without any assumption about clocks:

    named before dropped ─► the drop leaves it out      dropped before named ─► the writer does

A record can forget keys. A unit that was planned before that record is not committed if it holds
one: the next plan does it again without. So a forgotten key never comes back, and `forget` looks
for it only in units that earlier records committed:

    committed before forgotten ─► forget leaves the rows out     forgotten before ─► the driver does

A table names files as well. Its writer puts a record first, which announces the state of the log
that the table will hold. `vacuum` keeps the files of that state until the table has a newer
version.
"""

import random
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from pipeline.dataset.format_version import versioned_json
from pipeline.dataset.log.committed import Committed
from pipeline.dataset.log.forgotten import ForgottenSince, read_forgotten
from pipeline.dataset.log.log_records import (
    LogRecord,
    parse_record,
    read_next_records,
    read_records,
    record_path,
)
from pipeline.dataset.log.manifest import read_checkpoint
from pipeline.dataset.records import (
    PartsMoved,
    Publication,
    Reopened,
    RowsForgotten,
    UnitRecord,
)
from pipeline.errors import DatasetMismatch
from pipeline.storage.store import Store

_DROPPED_AT_ONCE: Final = 10_000
"""Maximum number of paths of one record, about a megabyte."""

_FORGOTTEN_AT_ONCE: Final = 25_000
"""Maximum number of digests of one record, about a megabyte."""

_BACKOFF_S: Final = 0.05
_LONGEST_BACKOFF_S: Final = 1.0
"""Maximum wait of a writer whose numbers were taken again and again. A longer one starves it:
others that just began would always be first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What became of the units of one `CommitLog.append`; every unit is in one of the five."""

    ours: tuple[str, ...]
    """Units that this log object committed."""

    lost: tuple[str, ...] = ()
    """Units that another driver committed meanwhile: its parts count, ours are orphaned files.
    Also units that were committed and reopened since our work on them was planned."""

    dropped: tuple[str, ...] = ()
    """Units that are not committed, because `vacuum` dropped their files: they were written long
    ago. The next plan holds them."""

    overlapping: tuple[str, ...] = ()
    """Units that are not committed, because a unit of another driver, planned from another
    listing, covers some of their files. The next plan holds the files that are left."""

    forgotten: tuple[str, ...] = ()
    """Units that are not committed, because they hold samples that were forgotten since they were
    planned. The next plan holds them without these."""


class CommitLog:
    """What is committed, and the means to add to it. Not thread-safe.

    Args:
        store: the dataset's root; it must support put-if-absent.
        fingerprint: fingerprint of the dataset; records of another one are refused.
        run: name of this run, written into its records for people.

    Attributes:
        number: number of the newest record that was read.
        planned_at: number of the newest record that was read when work on units was planned.
        committed: units and sources that are covered, and what is forgotten.
        forgets: numbers of the records that hold digests of forgotten keys, ascending.
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
        self._dropped: set[str] = set()
        self._to_drop: set[str] = set()
        self._forgotten_since_plan = ForgottenSince(store)
        self._losses = 0
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
        self.forgets = list(checkpoint.forgets)
        self.committed.forgotten = read_forgotten(store, self.forgets)
        for record in read_records(store, self.number):
            self._apply(record)
        self.plan()

    def refresh(self) -> None:
        """Read what other drivers committed since."""
        for record in read_next_records(self._store, self.number):
            self._apply(record)

    def plan(self) -> None:
        """State that all units that are appended from now on are planned from `committed`."""
        self.planned_at = self.number
        self._forgotten_since_plan = ForgottenSince(self._store)

    def append(self, units: Iterable[UnitRecord]) -> Appended:
        """Commit a group of units in one record.

        Units that are committed already are left out, and so are those that share a source with a
        committed one, those that were reopened since they were planned, those whose files were
        dropped, and those with samples that were forgotten since they were planned. Calling again
        with the same units after an error is safe.

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
            units, or if one dropped a part that is named here.

        Raises:
            StateUnknown: the store does not answer; the move may or may not be committed.
            StoreError: the store refused.
        """
        paths = {part.path for unit in units for part in unit.parts}
        while self.may_name(paths) and all(
            self.changed.get(unit.unit, 0) <= known[unit.unit] for unit in units
        ):
            if self._put(moved=tuple(units)):
                return True
        return False

    def forget(self, digests: Iterable[str]) -> None:
        """Ensure that no later record commits a sample of these digests.

        Raises:
            StateUnknown: the store does not answer; some may be recorded.
            StoreError: the store refused.
        """
        left = sorted(digests)
        while left:
            if self._put(forgotten=tuple(left[:_FORGOTTEN_AT_ONCE])):
                left = left[_FORGOTTEN_AT_ONCE:]

    def trim(self, units: Iterable[RowsForgotten], known: Mapping[str, int]) -> tuple[str, ...]:
        """Commit that rows of units no longer count.

        Args:
            units: units with the values that they have from now on; their files exist in the store.
            known: as of `move`.

        Returns:
            Ids of the units for which this is committed. It is not for units that a record after
            `known` is about.

        Raises:
            StateUnknown: the store does not answer; it may or may not be committed.
            StoreError: the store refused.
        """
        wanted = list(units)
        while fresh := [
            unit
            for unit in wanted
            if self.changed.get(unit.unit, 0) <= known[unit.unit]
            and self.may_name(part.path for part in unit.files)
        ]:
            if self._put(trimmed=tuple(fresh)):
                return tuple(unit.unit for unit in fresh)
        return ()

    def announce(self, table: Publication, paths: Iterable[str]) -> bool:
        """Declare that a table is about to name files, so that `vacuum` keeps them.

        Args:
            table: the table; the caller must read its state of the log after this object was made.
            paths: paths of its files.

        Returns:
            Whether the table may name them. If a record dropped one, a newer state of the log does
            not name it.

        Raises:
            StateUnknown: the store does not answer.
            StoreError: the store refused.
        """
        wanted = set(paths)
        while self.may_name(wanted):
            if self._put(published=(table,)):
                return True
        return False

    def drop(self, paths: Iterable[str]) -> set[str]:
        """Ensure that no record ever names some files, so that they can be deleted.

        Args:
            paths: paths that no record names, unless it was put after this object was made.

        Returns:
            Paths that may be deleted. A record names the others by now, or announces a table.

        Raises:
            StateUnknown: the store does not answer; nothing may be deleted.
            StoreError: the store refused.
        """
        dropped: set[str] = set()
        self._to_drop = set(paths)
        while chunk := sorted(self._to_drop)[:_DROPPED_AT_ONCE]:
            if self._put(dropped=tuple(chunk)):
                dropped.update(chunk)
                self._to_drop.difference_update(chunk)
        return dropped

    def may_name(self, paths: Iterable[str]) -> bool:
        """Return whether no record dropped one of these files since this object was made."""
        return self._dropped.isdisjoint(paths)

    def is_stale(self, unit: UnitRecord) -> bool:
        """Return whether a unit was committed or reopened since the work on it was planned."""
        return self.changed.get(unit.unit, 0) > self.planned_at

    def _put(self, **content: Any) -> bool:
        """Try to write the next record, apply the one that exists, return whether it is ours.

        If it is not, wait and read what follows it. The wait is random, and its limit doubles, so
        that many writers do not ask for the same number again and again.

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
        if found.token == self._token:
            self._losses = 0
            return True
        if self._losses:  # the first time this writer was perhaps only behind
            limit_s = min(_LONGEST_BACKOFF_S, _BACKOFF_S * 2**self._losses)
            time.sleep(random.uniform(0.0, limit_s))
        self._losses += 1
        self.refresh()
        return False

    def _fresh(self, wanted: Sequence[UnitRecord]) -> list[UnitRecord]:
        """Return the units that may still be committed, each once."""
        fresh: list[UnitRecord] = []
        inside = Committed()
        for unit in wanted:
            covered = self.committed.covers(unit) or inside.covers(unit) or self.is_stale(unit)
            usable = not covered and self.may_name(part.path for part in unit.files)
            if usable and not self._forgotten_since_plan.is_in(unit):
                inside.add(unit.unit, unit.sources)
                fresh.append(unit)
        return fresh

    def _outcome(self, wanted: Sequence[UnitRecord]) -> Appended:
        kinds: dict[str, list[str]] = {field.name: [] for field in fields(Appended)}
        for unit in {unit.unit: unit for unit in wanted}.values():
            if unit.unit in self._ours:
                kind = "ours"
            elif unit.unit in self.committed.units or self.is_stale(unit):
                kind = "lost"
            elif not self.may_name(part.path for part in unit.files):
                kind = "dropped"
            elif self._forgotten_since_plan.is_in(unit):
                kind = "forgotten"
            else:
                kind = "overlapping"
            kinds[kind].append(unit.unit)
        return Appended(**{name: tuple(units) for name, units in kinds.items()})

    def _apply(self, record: LogRecord) -> None:
        self._check_fingerprint(record.fingerprint, f"record {record.number}")
        for unit in record.units:
            self.committed.add(unit.unit, unit.sources)
        for reopened in record.reopened:
            self.committed.reopen(reopened)
        about: tuple[UnitRecord | Reopened | PartsMoved | RowsForgotten, ...]
        about = (*record.units, *record.reopened, *record.moved, *record.trimmed)
        self.changed.update((unit.unit, record.number) for unit in about)
        self._dropped.update(record.dropped)
        self._to_drop.difference_update(record.paths())
        if record.published:
            self._to_drop.clear()
        if record.forgotten:
            self.forgets.append(record.number)
            self.committed.forgotten.digests.update(record.forgotten)
            self._forgotten_since_plan.add(record.forgotten)
        committed = {unit.unit for unit in record.units}
        self._ours -= committed
        if record.token == self._token:
            self._ours |= committed
        self.number = record.number

    def _check_fingerprint(self, found: str | None, where: str) -> None:
        if found not in (None, self._fingerprint):
            raise DatasetMismatch(
                f"{self._store.uri}: log: {where} has fingerprint {found}, this run has"
                f" {self._fingerprint}; write to another output"
            )
