"""Totals from some of many: exact where all was counted, and honest where it was not."""

import math
import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.operations.plan.estimate import Estimate, Stratum, total

values = st.lists(st.floats(0, 1e6), min_size=1, max_size=20)


@given(values, values)
def test_what_was_counted_whole_is_exact(one: list[float], other: list[float]) -> None:
    strata = [Stratum(len(found), found, True) for found in (one, other)]
    assert total(strata) == Estimate(pytest.approx(sum(one) + sum(other)), 0.0)


@given(values, st.integers(0, 1000))
def test_the_mean_stands_for_the_rest(found: list[float], more: int) -> None:
    units = len(found) + more
    assert total([Stratum(units, found, False)]).value == pytest.approx(units * mean(found))


def test_by_hand() -> None:
    # Variance of 1 and 3 is 2; 10 units, 2 of them seen.
    assert total([Stratum(10, [1, 3], False)]) == Estimate(20, pytest.approx(2 * 10))
    assert total([Stratum(10, [1, 3], True)]).error == pytest.approx(2 * 10 * math.sqrt(0.8))
    both = total([Stratum(10, [1, 3], False), Stratum(5, [7] * 5, True)])
    assert both == Estimate(55, pytest.approx(20))


def test_one_unit_shows_no_spread() -> None:
    assert total([Stratum(2, [5], True)]) == Estimate(10, None)
    assert total([Stratum(1, [5], False)]).error is None
    assert total([Stratum(1, [5], True)]).error == 0
    assert total([Stratum(2, [5], True), Stratum(2, [5, 6], True)]).error is None
    assert Estimate(3, None).times(2) == Estimate(6, None)


def test_the_truth_lies_inside_about_as_often_as_said() -> None:
    rng = random.Random(0)
    units = [rng.uniform(0, 100) for _ in range(500)]
    hits = 0
    for _ in range(400):
        estimate = total([Stratum(500, rng.sample(units, 30), True)])
        assert estimate.error is not None
        hits += abs(estimate.value - sum(units)) <= estimate.error
    assert 0.9 < hits / 400 < 0.99
