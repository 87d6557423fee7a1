"""What a dataset must not hold any more: digests of keys and of sources, in records of the log.

    forget ─► record of digests ─► record of the rows that no longer count ─► compact ─► vacuum
                    └─► later runs leave these samples out before they decode them

The log is never rewritten, so it holds no key: only the first 128 bits of a SHA-256 of it. Anybody
who guesses a key can confirm it; nobody can read it. The digest is without a salt, so the same
take-down request gives the same digest in every dataset.

Digests come first. From their record on, every writer of a unit has read them, or does the unit
again. So the rows that were committed before that record are all that is left to find.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

from pipeline.dataset.log.log_records import read_record
from pipeline.dataset.part_reader import part_rows
from pipeline.dataset.records import Part, UnitRecord
from pipeline.records import LooseFile, WorkUnit, parse_range, unit_sources
from pipeline.storage.store import Store

_RECORDS_AT_ONCE: Final = 16


def key_digest(key: str, unit: str | None = None) -> str:
    """Return the digest of a sample's key, in one unit or in any.

    Args:
        key: key of the sample.
        unit: id of the unit; None means any unit.
    """
    return _digest("key", key) if unit is None else _digest("unit", unit, key)


def source_digest(source: str) -> str:
    """Return the digest of a source: the URI of a tar, file or list, or a range of rows."""
    return _digest("source", source)


def _digest(*parts: str) -> str:
    data = b"\0".join(part.encode("utf-8", "surrogateescape") for part in parts)
    return hashlib.sha256(data).hexdigest()[:32]


@dataclass(slots=True)
class Forgotten:
    """A set of forgotten keys and sources."""

    digests: set[str] = field(default_factory=set)
    """Their digests, from `key_digest` and `source_digest`."""

    def __bool__(self) -> bool:
        return bool(self.digests)

    def has(self, unit: str, key: str) -> bool:
        """Return whether the sample of this key is forgotten, in this unit or in any."""
        return bool(self.digests) and (
            key_digest(key) in self.digests or key_digest(key, unit) in self.digests
        )

    def has_source(self, source: str) -> bool:
        """Return whether a source is forgotten; for a range of rows also by the list's URI."""
        if not self.digests:
            return False
        found = parse_range(source)
        return source_digest(source) in self.digests or (
            found is not None and source_digest(found[0]) in self.digests
        )

    def has_file(self, unit: str, file: LooseFile) -> bool:
        """Return whether a file of a run is forgotten, by its key or its URI."""
        return self.has(unit, file.key) or self.has_source(file.uri)

    def keys_of(self, unit: str, sources: Sequence[str], keys: Iterable[str]) -> set[str]:
        """Return which keys of a unit are forgotten.

        All are if the unit has one source, a tar or a range of rows, and it is forgotten. For a
        file in a run of files, `forget` records the key.
        """
        if len(sources) == 1 and self.has_source(sources[0]):
            return set(keys)
        return {key for key in keys if self.has(unit, key)}


NOTHING: Final = Forgotten()
"""The set of a dataset in which nothing is forgotten."""


def read_forgotten(store: Store, numbers: Sequence[int]) -> Forgotten:
    """Return what the log records of these numbers forget.

    Raises:
        FileNotFoundError: there is no such record.
        StoreError: a record is damaged, or the store refuses.
    """
    if not numbers:
        return Forgotten()
    with ThreadPoolExecutor(_RECORDS_AT_ONCE) as pool:
        records = list(pool.map(lambda number: read_record(store, number), numbers))
    return Forgotten({digest for record in records for digest in record.forgotten})


def without_forgotten(unit: WorkUnit, forgotten: Forgotten) -> tuple[WorkUnit, int]:
    """Return a unit without forgotten sources, which are not read, and the number of such files.

    Samples of a forgotten tar or list are not counted, because nobody reads how many they are.
    """
    source = unit.tar_uri or (unit.rows and unit_sources(unit)[0])
    if source and forgotten.has_source(source):
        return WorkUnit(unit=unit.unit), 0
    files = tuple(file for file in unit.files if not forgotten.has_file(unit.unit, file))
    return replace(unit, files=files), len(unit.files) - len(files)


def unit_keys(store: Store, parts: Iterable[Part]) -> Iterator[str]:
    """Yield the keys in parts or quarantine tables, each at least once.

    Raises:
        StoreError: a file cannot be read.
    """
    for part in parts:
        for rows in part_rows(store, part, ["key"]):
            yield from rows["key"].unique().to_pylist()


class ForgottenSince:
    """What was forgotten since work on some units was planned, and which of them hold some of it.

    Args:
        store: the dataset's root.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._forgotten = Forgotten()
        self._held: dict[tuple[Part, ...], bool] = {}

    def add(self, digests: Iterable[str]) -> None:
        """Add digests of a record."""
        self._forgotten.digests.update(digests)
        self._held.clear()

    def is_in(self, unit: UnitRecord) -> bool:
        """Return whether a unit holds such a sample; reads the keys of its rows, once.

        Raises:
            StoreError: a file of the unit cannot be read.
        """
        if self._forgotten and unit.files not in self._held:
            self._held[unit.files] = self._search(unit)
        return self._held.get(unit.files, False)

    def _search(self, unit: UnitRecord) -> bool:
        if any(map(self._forgotten.has_source, unit.sources)):
            return True
        keys = unit_keys(self._store, unit.files)
        return any(self._forgotten.has(unit.unit, key) for key in keys)
