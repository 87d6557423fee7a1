from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.operations.near_hashes import MAX_DISTANCE, leaders, near_pairs

BITS = st.lists(st.integers(0, 63), max_size=MAX_DISTANCE + 2)


@st.composite
def hashes(draw: st.DrawFn) -> NDArray[np.uint64]:
    """A few hashes, and copies of them in which some bits are flipped."""
    found = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    for near in draw(st.lists(st.tuples(st.integers(0, 3), BITS), max_size=20)):
        value = found[near[0] % len(found)]
        for bit in near[1]:
            value ^= 1 << bit
        found.append(value)
    return np.array(draw(st.permutations(sorted(set(found)))), np.uint64)


def differ(a: np.uint64, b: np.uint64) -> int:
    return (int(a) ^ int(b)).bit_count()


@settings(max_examples=30)
@given(values=hashes(), distance=st.integers(0, MAX_DISTANCE))
def test_all_pairs_within_the_distance_are_found_once(
    values: NDArray[np.uint64], distance: int
) -> None:
    found = [
        pair
        for columns in near_pairs(values, distance)
        for pair in zip(*(column.tolist() for column in columns), strict=True)
    ]
    wanted = [
        (i, j, differ(values[i], values[j]))
        for i, j in combinations(range(len(values)), 2)
        if differ(values[i], values[j]) <= distance
    ]
    assert sorted(found) == wanted


@settings(max_examples=30)
@given(values=hashes(), distance=st.integers(0, MAX_DISTANCE))
def test_everybody_is_near_a_leader_and_leaders_are_not_near_each_other(
    values: NDArray[np.uint64], distance: int
) -> None:
    leader, bits = leaders(values, distance)
    chosen = sorted(set(leader.tolist()))
    assert all(leader[place] == place for place in chosen)
    assert all(differ(values[i], values[j]) > distance for i, j in combinations(chosen, 2))
    for place, (its, count) in enumerate(zip(leader.tolist(), bits.tolist(), strict=True)):
        assert differ(values[place], values[its]) == count <= distance
        earlier = [other for other in chosen if other < place]
        if its != place:  # the nearest of the leaders before it, and of these the first
            assert its == min(earlier, key=lambda one: (differ(values[one], values[place]), one))


@pytest.mark.parametrize("count", [0, 1])
def test_few_hashes(count: int) -> None:
    leader, bits = leaders(np.zeros(count, np.uint64), 4)
    assert (leader.tolist(), bits.tolist()) == ([0] * count, [0] * count)


def test_many_candidates_are_compared_in_pieces() -> None:
    """All hashes share one band, so each is a candidate of each."""
    values = np.arange(3000, dtype=np.uint64) << np.uint64(20)
    firsts = [first for first, _, _ in near_pairs(values, 1)]
    assert len(firsts) > 4
    wanted = sum((int(a) ^ int(b)).bit_count() == 1 for a in range(1024) for b in range(a))
    small = np.arange(1024, dtype=np.uint64) << np.uint64(20)
    assert sum(len(first) for first, _, _ in near_pairs(small, 1)) == wanted == 5120
