"""The endless stream of clips of one lane, and the cursor that resumes it.

A lane is one worker of one rank. Each epoch permutes the videos and deals them to the lanes. With
fewer videos than lanes, lanes share a video and cut different windows from it. A lane's segments
pass through a pool, from which the next window is drawn at random. The pool is empty at the end of
an epoch.

The clips depend only on the seed, the epoch and the lane. So a cursor holds the segments in the
pool and the number of windows that each has given; their pixels are decoded again.

Another number of lanes continues within the epoch: `dealt_again` deals what no lane has begun.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.records import WorkUnit
from pipeline.training.clip_config import ClipSourceConfig
from pipeline.training.segments import Segment, SegmentReader
from pipeline.training.windows import draw_window

Address = tuple[int, int, int]
"""Position of a segment in a lane's epoch: number of the unit, the sample, the segment."""

Cursor = dict[str, Any] | None
"""Position of a lane behind a clip, as JSON-like values; None before its first clip."""


@dataclass(slots=True, eq=False)
class _Pooled:
    """A segment in the pool."""

    address: Address
    segment: Segment
    taken: int
    """Number of windows cut from it."""


class ClipStream:
    """Clips of one lane, for one thread; `close` ends the decoder.

    Args:
        config: the source.
        units: units of the source, one per tar and loose file.
        lane: number of the lane, from 0.
        lanes: number of lanes: ranks × workers.
        cursor: result of `cursor`; the stream continues behind that clip.
    """

    def __init__(
        self,
        config: ClipSourceConfig,
        units: Sequence[WorkUnit],
        *,
        lane: int,
        lanes: int,
        cursor: Cursor = None,
    ) -> None:
        self._config = config
        self._units = units
        self._lane = lane
        self._lanes = lanes
        self._reader = SegmentReader(config)
        self._epoch = 0
        self._drawn = 0
        self._last: Address | None = None
        self._pool: list[_Pooled] = []
        self._restore: dict[Address, int] = {}
        self._taken: list[list[int]] = []
        """Number of units that each lane took, for each earlier number of lanes in this epoch."""
        if cursor is not None:
            self._epoch, self._drawn = cursor["epoch"], cursor["drawn"]
            self._last = None if cursor["last"] is None else tuple(cursor["last"])
            self._restore = {(u, s, n): taken for u, s, n, taken in cursor["pool"]}
            self._taken = cursor["taken"]

    @property
    def skipped(self) -> dict[str, str]:
        """Videos found broken so far, in that order: `unit/key` → reason and detail."""
        return self._reader.skipped

    def cursor(self) -> dict[str, Any]:
        """Return the position behind the last clip, as JSON-like values."""
        return {
            "epoch": self._epoch,
            "drawn": self._drawn,
            "last": None if self._last is None else list(self._last),
            "pool": [[*pooled.address, pooled.taken] for pooled in self._pool],
            "taken": self._taken,
        }

    def close(self) -> None:
        """End the decoder's process."""
        self._reader.close()

    def __iter__(self) -> Iterator[Tensor]:
        """Yield clips, uint8 `[T, H, W, 3]`, without end.

        Raises:
            ConfigError: no video of the source can be decoded.
            StoreError: the source cannot be read.
        """
        while True:
            yield from self._rest_of_epoch()
            if self._reader.has_nothing(self._units):
                name, why = next(iter(self.skipped.items()), ("the source", "it is empty"))
                raise ConfigError(
                    f"uri = {self._config.uri}: none of {len(self._units)} sources has a readable"
                    f" frame;"
                    f" {name}: {why}"
                )
            self._epoch, self._drawn, self._last, self._taken = self._epoch + 1, 0, None, []

    def _rest_of_epoch(self) -> Iterator[Tensor]:
        config = self._config
        units, share = self._dealt()
        segments = self._segments(units)
        while True:
            while len(self._pool) < config.shuffle_segments:
                pooled = next(segments, None)
                if pooled is None:
                    break
                self._pool.append(pooled)
            if not self._pool:
                return
            rng = self._rng("pool", self._lane, self._drawn)
            pooled = self._pool[rng.randrange(len(self._pool))]
            segment = pooled.segment
            window = share * config.windows_per_segment + pooled.taken
            clip = draw_window(segment, config, self._rng(segment.key, segment.index, window))
            self._drawn += 1
            pooled.taken += 1
            if pooled.taken == config.windows_per_segment:
                self._pool.remove(pooled)
            yield clip

    def _dealt(self) -> tuple[list[WorkUnit], int]:
        """Return this epoch's units of this lane, and its number among lanes that share them."""
        order = list(self._units)
        self._rng("order").shuffle(order)
        if not self._taken and len(order) < self._lanes:
            return [order[self._lane % len(order)]], self._lane // len(order)
        for taken in self._taken:
            lanes = (order[lane :: len(taken)][done:] for lane, done in enumerate(taken))
            order = list(chain.from_iterable(lanes))
        return order[self._lane :: self._lanes], 0

    def _segments(self, units: Sequence[WorkUnit]) -> Iterator[_Pooled]:
        """Yield the epoch's segments from the current position, first those of a cursor's pool.

        The pool is always in the order of addresses: segments arrive in that order, and removing
        one keeps it.
        """
        restore, last = self._restore, self._last
        self._restore = {}
        begin = min(restore, default=last) or (0, 0, 0)
        for number in range(begin[0], len(units)):
            first_sample = begin[1] if number == begin[0] else 0
            for segment in self._reader.read(units[number], first_sample):
                address = (number, segment.sample, segment.index)
                if last is None or address > last:
                    self._last = address
                    yield _Pooled(address, segment, 0)
                elif address in restore:
                    yield _Pooled(address, segment, restore[address])

    def _rng(self, *what: object) -> random.Random:
        """Return a generator that depends only on the seed, the epoch and the arguments."""
        return random.Random("/".join(map(str, (self._config.seed, self._epoch, *what))))


def dealt_again(cursors: Sequence[Cursor], num_units: int) -> Cursor:
    """Return the cursor with which every lane of another number of lanes continues.

    The lanes continue in the latest epoch that a lane has reached, with the units that no lane of
    this epoch has begun. So no video is shown in two lanes' shares of an epoch. What a lane had
    left of a unit, or of an earlier epoch, is not shown before the next epoch.

    Args:
        cursors: positions of all lanes so far, in order.
        num_units: number of units of the source.
    """
    epoch = max((cursor["epoch"] for cursor in cursors if cursor), default=None)
    if epoch is None:
        return None
    there = [cursor if cursor and cursor["epoch"] == epoch else None for cursor in cursors]
    before: list[list[int]] = next(cursor["taken"] for cursor in there if cursor)
    taken = [cursor["last"][0] + 1 if cursor and cursor["last"] else 0 for cursor in there]
    start = {"epoch": epoch, "drawn": 0, "last": None, "pool": [], "taken": [*before, taken]}
    if not before and num_units < len(cursors):  # the lanes shared units: nothing is left of them
        start |= {"epoch": epoch + 1, "taken": []}
    return start
