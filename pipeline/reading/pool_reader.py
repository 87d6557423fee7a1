"""Draws batches from pools of rows that threads load ahead.

Loading of a pool starts well before its first batch is due. The pool is released when the next one
of its strand is in use. Neighbours in a strand may share a row group; it is read once.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset.records import Part
from pipeline.reading.epoch_order import BatchPlace, EpochOrder, Pool
from pipeline.reading.row_groups import RowReader
from pipeline.reading.row_stream import Piece, RowStream

_POOLS_AHEAD: Final = 2


_THREADS: Final = 4
"""Number of parts that are read at a time: a store answers after tens of milliseconds."""


Groups = Mapping[int, Any]
"""Row groups of a part by number, as the reader returns them."""


class LoadedPool:
    """A pool whose row groups are loaded or being loaded.

    Args:
        pieces: places of its rows.
        groups: future of each piece that holds its row group.
        order: rows of the pool in the order of batches.
    """

    def __init__(
        self, pieces: Sequence[Piece], groups: Sequence[Future[Groups]], order: NDArray[Any]
    ) -> None:
        self._pieces = pieces
        self._groups = groups
        ends = np.cumsum([piece.stop - piece.first for piece in pieces])
        self._piece_of = np.searchsorted(ends, order, "right")
        stops = np.array([piece.stop for piece in pieces])
        self._row_of = order + (stops - ends)[self._piece_of]
        self._rows: list[Any] = []

    def rows(self, place: BatchPlace) -> list[tuple[Any, int]]:
        """Wait for the rows of a batch and return each as row n of its row group."""
        if not self._rows:
            pairs = zip(self._pieces, self._groups, strict=True)
            self._rows = [group.result()[piece.group] for piece, group in pairs]
        taken = slice(place.first, place.first + place.rows)
        pieces, rows = self._piece_of[taken].tolist(), self._row_of[taken].tolist()
        return [(self._rows[n], row) for n, row in zip(pieces, rows, strict=True)]

    def groups(self) -> dict[tuple[Part, int], Future[Groups]]:
        """Return the futures of its row groups by part and number."""
        names = ((piece.part, piece.group) for piece in self._pieces)
        return dict(zip(names, self._groups, strict=True))


class PoolReader:
    """Reads batches of one epoch; as a context manager it ends its threads.

    Args:
        order: order of the epoch.
        streams: row stream of each bucket.
        row_groups: reader of row groups.
    """

    def __init__(
        self, order: EpochOrder, streams: Sequence[RowStream], row_groups: RowReader
    ) -> None:
        self._order = order
        self._streams = streams
        self._row_groups = row_groups
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="row-groups")
        self._newest: dict[tuple[int, int], LoadedPool] = {}
        """Newest pool by bucket and strand."""

    def batches(
        self, indices: Iterable[int]
    ) -> Iterator[tuple[int, BatchPlace, list[tuple[Any, int]]]]:
        """Yield index, place and rows of batches; each row is row n of a row group.

        Args:
            indices: indices of the batches, ascending.

        Raises:
            StoreError: a part cannot be read.
        """
        todo = ((i, self._order[i]) for i in indices)
        ahead: deque[tuple[int, BatchPlace]] = deque()
        coming: dict[Pool, LoadedPool] = {}
        in_use: dict[tuple[int, int], tuple[Pool, LoadedPool]] = {}
        while True:
            while len(coming) < _POOLS_AHEAD and (following := next(todo, None)):
                pool = following[1].pool
                known = in_use.get((pool.bucket, pool.strand))
                if pool not in coming and (known is None or known[0] != pool):
                    coming[pool] = self._begin(pool)
                ahead.append(following)
            if not ahead:
                return
            i, place = ahead.popleft()
            strand = place.pool.bucket, place.pool.strand
            if place.pool in coming:
                in_use[strand] = place.pool, coming.pop(place.pool)
            yield i, place, in_use[strand][1].rows(place)

    def _begin(self, pool: Pool) -> LoadedPool:
        pieces = self._streams[pool.bucket].pieces(pool.first, pool.first + pool.rows)
        last = self._newest.get((pool.bucket, pool.strand))
        there = last.groups() if last else {}
        wanted: dict[Part, list[int]] = {}
        for piece in pieces:
            if (piece.part, piece.group) not in there:
                wanted.setdefault(piece.part, []).append(piece.group)
        for part, numbers in wanted.items():
            future = self._threads.submit(self._row_groups.read, part, numbers)
            there.update(((part, number), future) for number in numbers)
        groups = [there[piece.part, piece.group] for piece in pieces]
        loaded = LoadedPool(pieces, groups, self._order.rows_of(pool))
        self._newest[pool.bucket, pool.strand] = loaded
        return loaded

    def __enter__(self) -> "PoolReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self._threads.shutdown(cancel_futures=True)
