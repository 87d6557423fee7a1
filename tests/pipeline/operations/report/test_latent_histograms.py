"""Every value of the drawn clips is counted once, in the bin of its channel that it belongs to."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.statistics import LatentSums
from pipeline.dataset.tally import Tally
from pipeline.operations.compact import compact
from pipeline.operations.report.latent_histograms import EDGES, draw_histograms, histogram
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import DATASET, sound
from tests.pipeline.units import FSQ, KL


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


def values(store: Store) -> list[np.ndarray]:
    """Return the latents [C, n] of all rows, in the order of the log."""
    found = []
    for part in read_manifest(store).parts():
        with store.open(part.path) as file:
            for row in pq.read_table(file).to_pylist():
                cells = np.frombuffer(row["kl"], "<f2").reshape(row["kl_shape"])
                found.append(cells.reshape(len(cells), -1).astype(float))
    return found


def test_they_count_what_numpy_counts(store: Store) -> None:
    sound(store)
    sums = Tally.of(read_manifest(store)).total.latents
    found = draw_histograms(store, DATASET, read_manifest(store), sums)
    assert (found.clips, found.unread) == (21, ())
    every = np.concatenate(values(store), axis=1)
    standard = (every - every.mean(1, keepdims=True)) / every.std(1, keepdims=True)
    expected = [
        [(row < EDGES[0]).sum(), *np.histogram(row, EDGES)[0], (row >= EDGES[-1]).sum()]
        for row in standard
    ]
    np.testing.assert_array_equal(found.counts["kl"], expected)


def test_a_draw_reads_so_many_clips_and_no_source(local: Store) -> None:
    sound(local)
    sums = Tally.of(read_manifest(local)).total.latents
    manifest = read_manifest(local)
    sizes = {row.shape[1] for row in values(local)}
    one = draw_histograms(local, DATASET, manifest, sums, count=1)
    assert one.clips == 1
    assert set(one.counts["kl"].sum(1)) <= sizes
    draws = {
        draw_histograms(local, DATASET, manifest, sums, count=3, seed=n).counts["kl"].tobytes()
        for n in (0, 0, 1)
    }
    assert len(draws) == 2


def test_rows_of_merged_parts_are_found(local: Store) -> None:
    sound(local)
    sums = Tally.of(read_manifest(local)).total.latents
    before = draw_histograms(local, DATASET, read_manifest(local), sums)
    compact(local)
    after = draw_histograms(local, DATASET, read_manifest(local), sums)
    np.testing.assert_array_equal(before.counts["kl"], after.counts["kl"])


def test_without_latents_nothing_is_read(local: Store) -> None:
    for record in sound(local):
        for part in record.parts:
            local.delete(part.path)
    manifest = read_manifest(local)
    codes = replace(DATASET, tokenizers=(FSQ,))
    for dataset, sums in ((codes, {}), (replace(DATASET, tokenizers=(FSQ, KL)), {})):
        found = draw_histograms(local, dataset, manifest, sums)
        assert (found.clips, found.counts, found.unread) == (0, {}, ())
    gone = draw_histograms(
        local, DATASET, manifest, {"kl": LatentSums(cells=1, sums=(0,) * 4, squares=(1,) * 4)}
    )
    assert (gone.clips, len(gone.unread)) == (0, 21)


def test_a_channel_that_never_changes_and_a_value_that_is_none() -> None:
    latent = np.array([[2.0, 2.0], [np.nan, -np.inf]])
    counts = histogram(latent, np.array([2.0, 0.0]), np.array([0.0, 1.0]))
    assert counts[0, 1 + 20] == 2, "in the bin around the mean"
    assert (counts[1, 0], counts[1, -1], counts.sum()) == (1, 1, 4)


def test_a_bin_begins_with_its_edge() -> None:
    counts = histogram(EDGES[np.newaxis], np.array([0.0]), np.array([1.0]))
    assert counts.tolist() == [[0, *[1] * len(EDGES)]]
