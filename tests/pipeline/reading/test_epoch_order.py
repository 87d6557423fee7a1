"""The order of an epoch, as numbers: every row once, and strands that keep apart."""

from collections import Counter
from itertools import pairwise
from math import gcd
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reading.epoch_order import EpochOrder, Pool, Shuffle

row_counts = st.lists(st.integers(0, 300), min_size=1, max_size=3)
sizes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 9),
        "strands": st.integers(1, 7),
        "pool_batches": st.integers(1, 6),
        "shuffle": st.builds(Shuffle, st.integers(0, 3), st.integers(0, 3), st.booleans()),
        "drop_last": st.booleans(),
    }
)


def batches(order: EpochOrder) -> list[tuple[Pool, list[int]]]:
    """Return pool and stream rows of each batch."""
    found = []
    for i in range(len(order)):
        place = order[i]
        rows = order.rows_of(place.pool)[place.first : place.first + place.rows]
        found.append((place.pool, [place.pool.first + int(row) for row in rows]))
    return found


@given(row_counts, sizes)
def test_every_row_once_and_only_the_last_batch_of_a_bucket_short(
    rows: list[int], kwargs: dict[str, Any]
) -> None:
    seen: list[Counter[int]] = [Counter() for _ in rows]
    short = [0] * len(rows)
    for pool, batch in batches(EpochOrder(rows, **kwargs)):
        seen[pool.bucket].update(batch)
        short[pool.bucket] += len(batch) < kwargs["batch"]
        assert batch
    for bucket, total in enumerate(rows):
        left = total % kwargs["batch"]
        assert set(seen[bucket]) <= set(range(total))
        assert set(seen[bucket].values()) <= {1}
        assert len(seen[bucket]) == (total - left if kwargs["drop_last"] else total)
        assert short[bucket] == (left > 0 and not kwargs["drop_last"])


@given(row_counts, sizes, st.integers(1, 4), st.integers(0, 40))
def test_whoever_takes_every_nth_batch_keeps_to_strands_of_its_own(
    rows: list[int], kwargs: dict[str, Any], share: int, start: int
) -> None:
    readers = kwargs["strands"] // gcd(kwargs["strands"], share)  # divides the strands
    order = EpochOrder(rows, **kwargs)
    owner: dict[int, int] = {}
    for i in range(start, len(order)):
        strand = order[i].pool.strand
        if strand < kwargs["strands"]:
            assert owner.setdefault(strand, (i - start) % readers) == (i - start) % readers


@given(row_counts, sizes)
def test_a_strand_uses_its_pools_one_after_another(rows: list[int], kwargs: dict[str, Any]) -> None:
    firsts: dict[tuple[int, int], list[int]] = {}
    for pool, _ in batches(EpochOrder(rows, **kwargs)):
        assert pool.rows <= kwargs["pool_batches"] * kwargs["batch"]
        firsts.setdefault((pool.bucket, pool.strand), []).append(pool.first)
    for pools in firsts.values():
        assert all(one <= other for one, other in pairwise(pools))


def test_strands_end_their_pools_in_turns() -> None:
    order = EpochOrder(
        [1600], batch=1, strands=4, pool_batches=8, shuffle=Shuffle(0, 0), drop_last=False
    )
    begun: dict[Pool, int] = {}
    for i in range(len(order)):
        begun.setdefault(order[i].pool, i // 4)
    assert {Counter(begun.values())[n] for n in range(2, 400, 2)} == {1}, (
        "each in a round of its own"
    )


def test_rounds_mix_the_buckets() -> None:
    order = EpochOrder(
        [400, 400], batch=2, strands=2, pool_batches=4, shuffle=Shuffle(0, 0), drop_last=False
    )
    buckets = [order[i].pool.bucket for i in range(len(order))]
    assert buckets[::2] == buckets[1::2], "all strands of a round are of one bucket"
    assert 30 < sum(one != other for one, other in pairwise(buckets)) < 170


@pytest.mark.parametrize("key", [(0,), (1,), (0, 1)])
def test_permutations_differ_by_key_seed_and_epoch(key: tuple[int, ...]) -> None:
    mine = Shuffle(3, 5).permutation(100, 9, *key)
    assert sorted(mine) == list(range(100))
    others = [
        Shuffle(4, 5).permutation(100, 9, *key),
        Shuffle(3, 6).permutation(100, 9, *key),
        Shuffle(3, 5).permutation(100, 8, *key),
        Shuffle(3, 5).permutation(100, 9, *key, 7),
    ]
    assert not any(np.array_equal(mine, other) for other in others)


def test_permutations_are_pinned() -> None:
    """A resumed run would otherwise read some rows twice and others never."""
    assert Shuffle(1, 2).permutation(8, 3, 4).tolist() == [0, 6, 2, 4, 3, 5, 7, 1]
