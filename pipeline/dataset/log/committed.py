"""What the commit log covers: units, sources, and ranges of rows of lists.

A list can grow at its end while a job works through it. Ranges that two plans cut differently
can then overlap without being equal; a row that one of them covers is done.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import InitVar, dataclass, field
from itertools import chain

from pipeline.dataset.log.forgotten import Forgotten
from pipeline.dataset.records import Reopened, UnitRecord
from pipeline.records import Range, parse_range


@dataclass(slots=True)
class RowRanges:
    """A set of ranges that do not overlap, by the list that they belong to.

    Args:
        sources: sources of units; those that are ranges are added.
    """

    sources: InitVar[Iterable[str]] = ()
    _ranges: dict[str, list[Range]] = field(default_factory=dict, init=False)

    def __post_init__(self, sources: Iterable[str]) -> None:
        self.add(sources)

    def add(self, sources: Iterable[str]) -> None:
        """Add the ranges among the sources of a unit."""
        for uri, start, stop in _ranges(sources):
            insort(self._ranges.setdefault(uri, []), (start, stop))

    def discard(self, sources: Iterable[str]) -> None:
        """Remove ranges that were added."""
        for uri, start, stop in _ranges(sources):
            known = self._ranges.get(uri, [])
            place = bisect_left(known, (start, stop))
            if known[place : place + 1] == [(start, stop)]:
                del known[place]
                if not known:
                    del self._ranges[uri]

    def gaps(self, uri: str, start: int, stop: int) -> Iterator[Range]:
        """Yield the parts of [start, stop) that no range covers, in order."""
        known = self._ranges.get(uri, [])
        # The last range that begins before `start` may reach beyond it.
        place = max(0, bisect_left(known, (start, 0)) - 1)
        while place < len(known) and known[place][0] < stop:
            begin, end = known[place]
            if begin > start:
                yield start, begin
            start = max(start, end)
            place += 1
        if start < stop:
            yield start, stop

    def overlaps(self, sources: Iterable[str]) -> bool:
        """Return whether a range covers a row of these sources."""
        return any(
            list(self.gaps(uri, start, stop)) != [(start, stop)]
            for uri, start, stop in _ranges(sources)
        )


def _ranges(sources: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    for source in sources:
        if "#rows=" in source and (found := parse_range(source)) is not None:
            yield found


@dataclass(slots=True)
class Committed:
    """What the commit log covers: unit ids, and the URIs that those units were read from."""

    units: set[str] = field(default_factory=set)
    """Ids of the committed units, without the reopened ones."""
    sources: set[str] = field(default_factory=set)
    """Sources of these units."""
    rows: RowRanges = field(default_factory=RowRanges)
    """Ranges among the sources."""
    reopened: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Sources of the units that the next run does again, by unit."""
    forgotten: Forgotten = field(default_factory=Forgotten)
    """Keys and sources that later runs leave out."""

    def add(self, unit: str, sources: Iterable[str]) -> None:
        """Add one committed unit, and what it was read from."""
        self.units.add(unit)
        self.sources.update(sources)
        self.rows.add(sources)
        self.reopened.pop(unit, None)

    def reopen(self, unit: Reopened) -> None:
        """Mark a committed unit as reopened."""
        self.units.discard(unit.unit)
        self.sources.difference_update(unit.sources)
        self.rows.discard(unit.sources)
        self.reopened[unit.unit] = unit.sources

    def covers(self, record: UnitRecord) -> bool:
        """Return whether a unit must not be committed: it is, or another unit has its sources."""
        if record.unit in self.reopened:
            return False
        reopened = list(chain.from_iterable(self.reopened.values()))
        return (
            record.unit in self.units
            or not self.sources.isdisjoint(record.sources)
            or self.rows.overlaps(record.sources)
            or not set(reopened).isdisjoint(record.sources)
            or RowRanges(reopened).overlaps(record.sources)
        )
