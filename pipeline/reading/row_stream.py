"""A bucket's rows as one stream of row groups, in the order of an epoch.

Parts are shuffled and taken in packs; the row groups of a pack are shuffled among each other, so
that neighbours in the stream come from several parts. The place of a row in the stream follows from
the parts' numbers of rows; only the footers of the packs in use are read.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Final

import numpy as np

from pipeline.dataset.records import Part
from pipeline.reading.epoch_order import GROUPS, PARTS, Shuffle

_PACK_PARTS: Final = 8
"""Number of parts of a pack: eight footers are read quickly, and eight videos are mixed well."""


_PACKS_KEPT: Final = 256
"""Number of packs whose row groups are kept: each takes a few kB."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [first, stop) of one row group."""

    part: Part
    """Part that holds the rows."""
    group: int
    """Number of the row group among those of the part."""
    first: int
    """Number of the first row in the row group."""
    stop: int
    """Number after that of the last row."""


class RowStream:
    """One bucket's rows in one epoch.

    Args:
        parts: parts of the bucket.
        bucket: number of the bucket, for the shuffle.
        shuffle: permutations of the epoch.
        group_runs: function that returns the number of rows of each row group of a part, in runs
            of row groups that stay together.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        bucket: int,
        shuffle: Shuffle,
        group_runs: Callable[[Part], Sequence[Sequence[int]]],
    ) -> None:
        self._parts = [parts[n] for n in shuffle.permutation(len(parts), PARTS, bucket)]
        self._bucket = bucket
        self._shuffle = shuffle
        self._group_runs = group_runs
        sizes = np.array([part.rows for part in self._parts], dtype=np.int64)
        starts = range(0, len(self._parts), _PACK_PARTS)
        self._ends: list[int] = np.add.reduceat(sizes, starts).cumsum().tolist() if parts else []
        self._pack = lru_cache(_PACKS_KEPT)(self._read_pack)

    def pieces(self, first: int, stop: int) -> list[Piece]:
        """Return the places of rows [first, stop) of the stream."""
        pieces = []
        pack = bisect_right(self._ends, first)
        while first < stop:
            start = self._ends[pack - 1] if pack else 0
            groups, ends = self._pack(pack)
            n = bisect_right(ends, first - start)
            while first < min(stop, self._ends[pack]):
                part, group = groups[n]
                before = start + (ends[n - 1] if n else 0)
                until = min(stop, start + ends[n])
                pieces.append(Piece(part, group, first - before, until - before))
                first, n = until, n + 1
            pack += 1
        return pieces

    def _read_pack(self, pack: int) -> tuple[list[tuple[Part, int]], list[int]]:
        """Return part and number of each row group of a pack, in order, and where each ends."""
        runs: list[list[tuple[Part, int, int]]] = []
        for part in self._parts[pack * _PACK_PARTS : (pack + 1) * _PACK_PARTS]:
            group = count()
            runs += [[(part, next(group), rows) for rows in run] for run in self._group_runs(part)]
        order = self._shuffle.permutation(len(runs), GROUPS, self._bucket, pack)
        groups = [each for n in order for each in runs[n]]
        ends = np.cumsum([rows for _, _, rows in groups])
        return [(part, group) for part, group, _ in groups], ends.tolist()
