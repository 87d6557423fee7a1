"""Which rows of which lists: ranges, their name in the commit log, and what is left between them.

A list may grow at its end while it is being worked through. Ranges that two plans cut differently
can then overlap without being equal, and a row that one of them covers is done.
"""

import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import InitVar, dataclass, field

Range = tuple[int, int]
"""Rows [start, stop)."""

_NAME = re.compile(r"(.*)#rows=(\d+)-(\d+)", re.DOTALL)


def range_name(uri: str, start: int, stop: int) -> str:
    """Return how a range stands among the sources of a unit: `<uri>#rows=<start>-<stop>`."""
    return f"{uri}#rows={start}-{stop}"


def parse_range(source: str) -> tuple[str, int, int] | None:
    """Return `(uri, start, stop)` of a source that is a range of rows; None of any other."""
    found = _NAME.fullmatch(source)
    return (found[1], int(found[2]), int(found[3])) if found else None


@dataclass(slots=True)
class RowRanges:
    """A set of ranges that do not overlap, by the list that they belong to.

    Args:
        sources: of units; those that are ranges are taken in.
    """

    sources: InitVar[Iterable[str]] = ()
    _ranges: dict[str, list[Range]] = field(default_factory=dict, init=False)

    def __post_init__(self, sources: Iterable[str]) -> None:
        self.add(sources)

    def add(self, sources: Iterable[str]) -> None:
        """Take in the ranges among the sources of a unit."""
        for uri, start, stop in _ranges(sources):
            insort(self._ranges.setdefault(uri, []), (start, stop))

    def discard(self, sources: Iterable[str]) -> None:
        """Take out ranges that were added."""
        for uri, start, stop in _ranges(sources):
            known = self._ranges.get(uri, [])
            place = bisect_left(known, (start, stop))
            if known[place : place + 1] == [(start, stop)]:
                del known[place]
                if not known:
                    del self._ranges[uri]

    def gaps(self, uri: str, start: int, stop: int) -> Iterator[Range]:
        """Yield what of [start, stop) no range covers, in order."""
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
        """Return whether a row of these sources is covered."""
        return any(
            list(self.gaps(uri, start, stop)) != [(start, stop)]
            for uri, start, stop in _ranges(sources)
        )


def _ranges(sources: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    for source in sources:
        if "#rows=" in source and (found := parse_range(source)) is not None:
            yield found
