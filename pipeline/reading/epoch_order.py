"""The order of an epoch: which rows make batch i, for whoever asks.

    rows of a bucket ─► strands (equal runs of its row stream) ─► pools ─► batches
    round: one batch of every strand of one bucket; the epoch: rounds of all buckets, then the rest

The order knows no ranks and no workers, so a position in it means the same to any number of them:
all batches below it are done. Batch i of the rounds belongs to strand i mod `strands`. Readers that
take every n-th batch therefore keep to strands of their own, and nothing is read twice, as long as
n divides `strands`; else strands are shared, and read by each that shares them.

All of it is arithmetic on numbers of rows: no file is opened to know where a batch lies.
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


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Draws the permutations of one epoch."""

    seed: int
    epoch: int
    on: bool = True
    """False leaves everything in its place."""

    def permutation(self, count: int, purpose: int, *key: int) -> NDArray[np.intp]:
        """Return 0 … count − 1 in an order that follows from the key alone.

        NumPy keeps the raw bits of a seeded PCG64 from release to release, but not what its
        generators make of them; a resumed run may well have another release.
        """
        if not self.on:
            return np.arange(count)
        seeds = np.random.SeedSequence([self.seed, self.epoch, purpose, *key])
        return np.argsort(np.random.PCG64(seeds).random_raw(count), kind="stable")


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows that are shuffled together: a run of a bucket's row stream."""

    bucket: int
    strand: int
    """Number of `strands` for the rest that no round holds."""
    first: int
    """Its first row in the bucket's stream."""
    rows: int


@dataclass(frozen=True, slots=True)
class BatchPlace:
    """Where a batch lies: rows [first, first + rows) of a shuffled pool."""

    pool: Pool
    first: int
    rows: int


class EpochOrder:
    """The batches of an epoch; `order[i]` is where batch i lies.

    Args:
        rows: of each bucket.
        batch: rows of a batch.
        strands: equal runs that each bucket's rows are cut into.
        pool_batches: batches of a pool.
        shuffle: of the epoch.
        drop_last: leave out the last batch of each bucket if it is short.
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
            # Strands end their pools in turns: else a reader would wait for all of them at once.
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
        """Return the rows of a bucket that no round holds."""
        return self._rows[bucket] - self._rounds[bucket] * self._batch * self._strands

    def _dealt(
        self, counts: Sequence[int], purpose: int
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return a bucket for each turn, shuffled, and how many of that bucket came before."""
        buckets = np.repeat(np.arange(len(counts)), counts)
        buckets = buckets[self._shuffle.permutation(len(buckets), purpose)]
        turns = np.empty_like(buckets)
        for bucket, count in enumerate(counts):
            turns[buckets == bucket] = np.arange(count)
        return buckets, turns
