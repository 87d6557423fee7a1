"""Reading after a compaction, when rows of many units share a file, and some in it do not count."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

import pipeline
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.records import Reopened
from pipeline.operations.compact import compact
from pipeline.reading import TokenDataset, TokenMap
from pipeline.reading.columns import Columns
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import write_log
from tests.pipeline.reading.worlds import Batch, clip_ids, world_batches, write_units
from tests.pipeline.units import FSQ, KL


def test_merged_rows_are_those_that_were(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "corpus"))
    write_units(store, 24, 9, 0, 17, 5)
    before = pipeline.open(store.uri)
    assert compact(store, part_bytes=20_000).files_after
    after = pipeline.open(store.uri)
    assert (len(after), after.buckets) == (len(before), before.buckets)
    assert len(after.parts()) < len(before.parts())
    # Neighbours that all count are one run: no row group is read for each of its units.
    assert len({part.path for part in after.parts()}) == len(after.parts())
    old, new = (TokenMap(one, ["clip_id", "fsq", "kl"]) for one in (before, after))
    by_id = {row["clip_id"]: row for row in (old[n] for n in range(len(old)))}
    for n in range(len(new)):
        row = new[n]
        was = by_id.pop(row["clip_id"])
        assert torch.equal(row["fsq"], was["fsq"])
        assert torch.equal(row["kl"], was["kl"])
    assert not by_id


def test_rows_that_no_longer_count_are_passed_over(tmp_path: Path) -> None:
    """A unit done again after a merge leaves dead rows in the middle of the merged file."""
    store = Store(str(tmp_path / "corpus"))
    write_units(store, 9, 9, 9)
    compact(store, part_bytes=1 << 20)
    [again] = [unit for unit in read_manifest(store).units() if unit.unit == "u-1"]
    log = CommitLog(store, fingerprint=read_dataset(store).fingerprint, run="r")
    log.reopen([Reopened(unit="u-1", sources=again.sources)])
    log.plan()
    log.append([replace(again, parts=(), counts=replace(again.counts, clips_written=0))])
    snapshot = pipeline.open(store.uri)
    # In each bucket the rows of u-0 and of u-2, with those of u-1 between them.
    assert len(snapshot.parts()) == 2 * len(snapshot.buckets)
    wanted = ["clip_id"]

    def make(**world: int) -> TokenDataset:
        return TokenDataset(snapshot, wanted, batch=2, strands=2, **world)

    for world in (1, 2):
        ranks, _ = world_batches(make, world, workers=0)
        ids = clip_ids(ranks)
        assert len(ids) == len(set(ids)) == 18
        assert not any(name.startswith("u-1/") for name in ids)
    rows = TokenMap(snapshot, wanted)
    assert {rows[n]["clip_id"].split("/")[0] for n in range(len(rows))} == {"u-0", "u-2"}


def test_whole_videos_come_as_lists() -> None:
    columns = Columns([FSQ, KL], ["fsq", "kl", "num_frames"])
    shapes = [[1, 2, 2], [3, 2, 2]]
    indices = [np.arange(np.prod(shape), dtype="<u2") for shape in shapes]
    latents = [np.arange(4 * i.size, dtype="<f2") for i in indices]
    table = pa.table(
        {
            "fsq": [i.tobytes() for i in indices],
            "kl": [latent.tobytes() for latent in latents],
            "fsq_shape": shapes,
            "kl_shape": [[4, *shape] for shape in shapes],
            "num_frames": [4, 11],
        }
    )
    rows = columns.ragged_rows(table)
    batch: Batch = columns.batch([(rows, 1), (rows, 0)])
    assert [list(one.shape) for one in batch["fsq"]] == [[3, 2, 2], [1, 2, 2]]
    assert batch["fsq"][0].dtype == torch.int64
    assert batch["fsq"][0].flatten().tolist() == list(range(12))
    assert [list(one.shape) for one in batch["kl"]] == [[4, 3, 2, 2], [4, 1, 2, 2]]
    assert batch["num_frames"].tolist() == [11, 4]


def test_what_was_written_unmerged_still_reads(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "corpus"))
    write_units(store, 5)
    write_log(store, [])
    assert len(TokenMap(pipeline.open(store.uri), ["fsq"])) == 5
