"""The order of an epoch: which rows make batch i.

    rows of a bucket ─► strands (equal runs of its row stream) ─► pools ─► batches
    round: one batch of every strand of one bucket; the epoch: rounds of all buckets, then the rest

The order does not depend on ranks and workers, so a position in it means the same for any number
of them: all batches below it are done. Batch i of the rounds belongs to strand i mod `strands`. If
n divides `strands`, readers that take every n-th batch read strands of their own, and nothing is
read twice. Otherwise readers share strands, and each of them reads these.

The order follows from numbers of rows alone: no file is opened to find a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_ROUNDS: Final = 0


_REST: Final = 1


_POOL: Final = 2


PARTS: Final = 3


GROUPS: Final = 4


WINDOWS: Final = 5


MIX: Final = 6


def draws(count: int, *key: int) -> NDArray[np.uint64]:
    """Return random numbers that follow from the key alone.

    NumPy guarantees the raw bits of a seeded PCG64 across releases, but not what its generators
    make of them. A resumed run may use another release.
    """
    return np.random.PCG64(np.random.SeedSequence(key)).random_raw(count)


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Draws the permutations of one epoch."""

    seed: int
    """Random seed, from 0."""
    epoch: int
    """Number of the epoch, from 0."""
    on: bool = True
    """Whether to shuffle; False keeps the order."""

    def permutation(self, count: int, purpose: int, *key: int) -> NDArray[np.intp]:
        """Return 0 … count − 1 in an order that follows from the key alone."""
        if not self.on:
            return np.arange(count)
        return np.argsort(draws(count, self.seed, self.epoch, purpose, *key), kind="stable")


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows that are shuffled together: a run of a bucket's row stream."""

    bucket: int
    """Number of the bucket."""
    strand: int
    """Number of the strand; equal to `strands` for the rest, which is in no round."""
    first: int
    """Number of its first row in the bucket's stream."""
    rows: int
    """Number of rows."""


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """Place of a batch: rows [first, first + rows) of a shuffled pool."""

    pool: Pool
    """Pool that holds the rows."""
    first: int
    """Number of the first row in the shuffled pool."""
    rows: int
    """Number of rows."""


class EpochOrder:
    """The batches of an epoch; `order[i]` is the place of batch i.

    Args:
        rows: number of rows of each bucket.
        batch: number of rows of a batch.
        strands: number of equal runs that the rows of each bucket are cut into.
        pool_batches: number of batches of a pool.
        shuffle: permutations of the epoch.
        drop_last: whether to leave out the last batch of each bucket if it is short.
    """

    def __init__(
        self,
        rows: Sequence[int],
        *,
        batch: int,
        strands: int,
        pool_batches: int,
        shuffle: Shuffle,
        drop_last: bool,
    ) -> None:
        self._rows = rows
        self._batch = batch
        self._strands = strands
        self._pool_batches = pool_batches
        self._shuffle = shuffle
        self._rounds = [total // (batch * strands) for total in rows]
        self._round_bucket, self._round_turn = self._dealt(self._rounds, _ROUNDS)
        rest = [self._rest(bucket) for bucket in range(len(rows))]
        self._rest_bucket, self._rest_turn = self._dealt(
            [left // batch if drop_last else -(-left // batch) for left in rest], _REST
        )

    def __len__(self) -> int:
        return len(self._round_bucket) * self._strands + len(self._rest_bucket)

    def __getitem__(self, i: int) -> BatchPlace:
        number, strand = divmod(i, self._strands)
        if number < len(self._round_bucket):
            bucket, turn = int(self._round_bucket[number]), int(self._round_turn[number])
            start, num_rows = strand * self._rounds[bucket], self._rounds[bucket] * self._batch
            # Strands end their pools in turns, so that a reader does not wait for all at once.
            ahead = strand * self._pool_batches // self._strands
        else:
            number = i - len(self._round_bucket) * self._strands
            bucket, turn = int(self._rest_bucket[number]), int(self._rest_turn[number])
            strand, ahead = self._strands, 0
            start, num_rows = strand * self._rounds[bucket], self._rest(bucket)
        pool = (turn + ahead) // self._pool_batches
        first = max(0, pool * self._pool_batches - ahead)
        stop = (pool + 1) * self._pool_batches - ahead
        pool_rows = min(stop * self._batch, num_rows) - first * self._batch
        offset = (turn - first) * self._batch
        return BatchPlace(
            Pool(bucket, strand, (start + first) * self._batch, pool_rows),
            offset,
            min(self._batch, pool_rows - offset),
        )

    def rows_of(self, pool: Pool) -> NDArray[np.intp]:
        """Return the rows of a pool in the order in which batches take them."""
        return self._shuffle.permutation(pool.rows, _POOL, pool.bucket, pool.first)

    def _rest(self, bucket: int) -> int:
        """Return the number of rows of a bucket that are in no round."""
        return self._rows[bucket] - self._rounds[bucket] * self._batch * self._strands

    def _dealt(
        self, counts: Sequence[int], purpose: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the bucket of each turn, shuffled, and the number of its earlier turns."""
        buckets = np.repeat(np.arange(len(counts)), counts)
        buckets = buckets[self._shuffle.permutation(len(buckets), purpose)]
        turns = np.empty_like(buckets)
        for bucket, count in enumerate(counts):
            turns[buckets == bucket] = np.arange(count)
        return buckets, turns
