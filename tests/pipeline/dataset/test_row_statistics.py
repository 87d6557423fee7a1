"""Statistics are exact: they are what integers and fractions say, in any order and any batches."""

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.config.job import MEASURES
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.row_statistics import (
    MEASURE_BINS,
    latent_sums,
    level_counts,
    row_statistics,
)
from pipeline.dataset.statistics import BucketStatistics, LatentSums, LevelCounts, merged
from pipeline.records import from_json, to_json
from tests.pipeline.units import FSQ, KL, LEVELS, SCHEMA, SMALL, WIDE, make_cells, make_clip

CLIPS = [make_clip("u", n) for n in range(12)]


def rows(clips: Sequence[int]) -> pa.Table:
    chosen = [CLIPS[n] for n in clips]
    cells = [make_cells([clip], SMALL) for clip in chosen]
    stacked = {name: np.concatenate([one[name] for one in cells]) for name in cells[0]}
    return pa.Table.from_batches([clip_rows(chosen, stacked, SCHEMA)])


def gathered(batches: Sequence[Sequence[int]]) -> BucketStatistics:
    found = (row_statistics(rows(batch), (FSQ, KL), LEVELS) for batch in batches)
    return sum(found, BucketStatistics())


WHOLE = gathered([range(12)])


@given(st.permutations(range(12)), st.lists(st.integers(1, 11), max_size=4))
def test_neither_order_nor_batches_show(order: list[int], cuts: list[int]) -> None:
    edges = [0, *sorted(set(cuts)), 12]
    batches = [order[a:b] for a, b in pairwise(edges)]
    assert gathered(batches) == WHOLE
    assert gathered(batches[:1]) + gathered(batches[1:]) == WHOLE


def test_what_is_counted() -> None:
    found = WHOLE
    assert (found.clips, found.frames, found.padded_frames) == (12, 60, 12)
    assert found.microseconds == 6_000_000
    captions = [clip.caption for clip in CLIPS if clip.caption]
    assert (found.captions, found.caption_characters) == (8, sum(map(len, captions)))
    assert found.metas == 6
    assert (found.lengths, found.sides, found.rates) == ({8: 12}, {480: 12}, {30: 12})
    cells = [make_cells([clip], SMALL) for clip in CLIPS]
    latents = np.concatenate([one["kl"][0].reshape(4, -1) for one in cells], 1).astype(np.float64)
    assert found.latents["kl"].cells == latents.shape[1]
    np.testing.assert_allclose(found.latents["kl"].mean(), latents.mean(1), rtol=1e-12)
    np.testing.assert_allclose(found.latents["kl"].std(), latents.std(1), rtol=1e-9)
    indices = np.concatenate([one["fsq"].ravel() for one in cells]).tolist()
    for channel, counts in enumerate(found.levels["fsq"].counts):
        wanted = Counter(index // 8**channel % 8 for index in indices)
        assert counts == tuple(wanted[level] for level in range(8))
    assert found.levels["fsq"].cells == len(indices)


def test_buckets_are_apart() -> None:
    one, other = {WIDE.name: gathered([[1]])}, {SMALL.name: gathered([[2, 3]])}
    both = merged(merged(one, other), one)
    assert {name: s.clips for name, s in both.items()} == {SMALL.name: 2, WIDE.name: 2}
    assert list(both) == sorted([SMALL.name, WIDE.name])


@given(
    st.lists(
        st.lists(st.floats(-65504, 65504, width=16), min_size=1, max_size=30),
        min_size=1,
        max_size=5,
    )
)
@example([[3 * 2.0**-18]])
def test_sums_of_float16_are_exact(clips: list[list[float]]) -> None:
    found = latent_sums(np.array([values], np.float64) for values in clips)
    values = [Fraction(value) for values in clips for value in values]
    assert found.cells == len(values)
    assert Fraction(found.sums[0], 1 << 24) == sum(values)
    error = abs(Fraction(found.squares[0], 1 << 32) - sum(value**2 for value in values))
    assert error <= len(values) * Fraction(1, 1 << 33)
    mean = sum(values) / len(values)
    assert found.mean() == [float(mean)]
    variance = float(sum((value - mean) ** 2 for value in values) / len(values))
    assert found.std()[0] == pytest.approx(math.sqrt(variance), rel=1e-6, abs=2e-5)


def test_values_that_no_int64_holds_are_summed_too() -> None:
    found = latent_sums([np.array([[3e30, -3e30, 1e30]]), np.array([[1.0, 2.0, 4.0]])])
    assert found.mean()[0] == pytest.approx(1e30 / 6)
    assert found.squares[0] > 1 << 64


def test_levels_of_uneven_channels() -> None:
    levels = (3, 2, 4)
    found = level_counts(np.arange(24, dtype=np.uint8), levels)
    assert found.counts == ((8, 8, 8), (12, 12), (6, 6, 6, 6))
    assert found.perplexity() == pytest.approx(levels)
    assert level_counts(np.full(5, 7, np.uint8), levels).counts == ((0, 5, 0), (5, 0), (0, 5, 0, 0))
    assert LevelCounts(counts=((5, 0), (0, 0))).perplexity() == pytest.approx([1, 0])


def test_what_is_larger_than_all_marks_has_the_last() -> None:
    found = rows([0]).to_pylist()[0]
    values = found | {"source_height": 9000, "source_width": 5000, "source_fps": 1e6}
    total = BucketStatistics()
    for changes in ({}, {"source_height": 144, "source_fps": 23.976}, {"source_fps": 0.0}):
        table = pa.Table.from_pylist([values | changes], schema=SCHEMA)
        total += row_statistics(table, (FSQ, KL), LEVELS)
    assert total.sides == {144: 1, 4320: 2}
    assert total.rates == {0: 1, 24: 1, 240: 1}


def test_a_tokenizer_that_one_side_lacks_is_kept() -> None:
    sums = LatentSums(cells=1, sums=(2,), squares=(4,))
    one, other = BucketStatistics(latents={"a": sums}), BucketStatistics(latents={"b": sums})
    assert (one + other).latents == {"a": sums, "b": sums}
    assert (one + one).latents == {"a": sums + sums}


def test_a_record_takes_the_sums_of_any_finite_latents() -> None:
    most = float(np.finfo(np.float32).max)
    found = latent_sums([np.full((2, 1000), most)] * 3)
    assert from_json(LatentSums, to_json(found)) == found
    assert found.mean() == [most, most]


measured = st.one_of(st.none(), st.floats(0, 1, width=32), st.sampled_from([0.0, 0.02, 0.1, 0.5]))


@given(st.lists(st.tuples(measured, measured), min_size=1, max_size=12), st.integers(0, 12))
def test_measures_fall_into_their_bins(values: list[tuple[float | None, ...]], cut: int) -> None:
    table = rows([0] * len(values))
    for n, name in enumerate(("border", "motion")):
        column = pa.array([pair[n] for pair in values], pa.float32())
        table = table.append_column(name, column)
    found = row_statistics(table, (FSQ, KL), LEVELS)
    for n, name in enumerate(("border", "motion")):
        bins, counts = MEASURE_BINS[name], found.measures[name]
        assert counts.keys() <= set(bins)
        known = [Fraction(pair[n]) for pair in values if pair[n] is not None]
        assert sum(counts.values()) == len(known)
        near = Fraction(1, 10**6)
        for upper in bins:
            below = sum(count for edge, count in counts.items() if edge <= upper)
            edge = Fraction(upper, 1000)
            assert sum(v <= edge - near for v in known) <= below
            assert below <= sum(v <= edge + near for v in known)
    if 0 < cut < len(values):
        parts = [row_statistics(t, (FSQ, KL), LEVELS) for t in (table[:cut], table[cut:])]
        assert (parts[0] + parts[1]).measures == found.measures


def test_bins_of_measures() -> None:
    def bin_of(name: str, value: float) -> int:
        table = rows([0]).append_column(name, pa.array([value], pa.float32()))
        [(upper, _)] = row_statistics(table, (FSQ, KL), LEVELS).measures[name].items()
        return upper

    assert [bin_of("border", v) for v in (0, 0.001, 0.01, 0.02, 0.021, 1)] == [
        *(0, 10, 10, 20, 50, 1000)
    ]
    assert [bin_of("motion", v) for v in (0, 0.1, 0.3, 8, 9, 500)] == [
        *(0, 100, 500, 8000, 100_000, 100_000)
    ]
    assert all(list(bins) == sorted(set(bins)) for bins in MEASURE_BINS.values())
    assert max(map(len, MEASURE_BINS.values())) <= 20
    assert set(MEASURE_BINS) == set(MEASURES) - {"phash"}
    assert WHOLE.measures == {}
