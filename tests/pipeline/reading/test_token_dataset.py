"""Batches of a real dataset: the rows that were written, once per epoch, in whatever world."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.dataset.records import Part
from pipeline.dataset.schema import tokenizer_columns
from pipeline.errors import ConfigError, StoreError
from pipeline.reading import Snapshot, TokenDataset
from pipeline.reading.row_groups import RowGroups
from pipeline.storage.store import Store
from tests.pipeline.reading.worlds import (
    Make,
    clip_ids,
    rank_batches,
    world_batches,
    write_units,
)

COLUMNS = ["clip_id", "fsq"]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    store = Store(str(tmp_path_factory.mktemp("reading") / "corpus"))
    write_units(store, 24, 1, 9, 17, 6, 30)
    return pipeline.open(store.uri)


def rows_of(snapshot: Snapshot) -> dict[str, dict[str, Any]]:
    """Return all rows by id, read without the code under test."""
    files = [pq.read_table(snapshot.store.locate(part.path)) for part in snapshot.parts()]
    return {row["clip_id"]: row for file in files for row in file.to_pylist()}


def maker(snapshot: Snapshot, **options: Any) -> Make:
    options = {"batch": 3, "pool_rows": 9, "strands": 4} | options
    return partial(TokenDataset, snapshot, COLUMNS, **options)


def test_the_dataset_has_what_these_tests_need(snapshot: Snapshot) -> None:
    parts = snapshot.parts()
    files = [pq.ParquetFile(snapshot.store.locate(part.path)) for part in parts]
    assert len(snapshot.buckets) == 2
    assert max(file.num_row_groups for file in files) > 2
    assert len({part.path.rpartition("-")[0] for part in parts}) > 10


def test_cells_are_those_that_were_written(snapshot: Snapshot) -> None:
    written = rows_of(snapshot)
    columns = [
        "clip_id",
        "fsq",
        "kl",
        "kl_logvar",
        "caption",
        "meta",
        "clip_index",
        "start_s",
        "crop",
    ]
    seen = 0
    for batch in TokenDataset(snapshot, columns, 4):
        for n, name in enumerate(batch["clip_id"]):
            row = written[name]
            for column in ("fsq", "kl", "kl_logvar"):
                cells, shape = batch[column][n], row[f"{column.split('_')[0]}_shape"]
                stored = torch.frombuffer(
                    bytearray(row[column]), dtype=torch.uint16 if column == "fsq" else torch.float16
                )
                assert cells.dtype == (torch.int64 if column == "fsq" else torch.float16)
                assert torch.equal(cells, stored.reshape(shape).to(cells.dtype))
            assert batch["clip_index"][n] == row["clip_index"]
            assert batch["start_s"][n].item() == row["start_s"]
            for column in ("caption", "meta", "crop"):
                assert batch[column][n] == row[column]
            seen += 1
    assert seen == len(written) == 87


@given(
    worlds=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3)), min_size=1, max_size=3),
    steps=st.lists(st.integers(0, 9), min_size=2, max_size=2),
    batch=st.integers(1, 7),
    strands=st.integers(1, 6),
    shuffle=st.booleans(),
    epoch=st.integers(0, 2),
)
@settings(max_examples=15)
def test_every_row_once_through_interruptions_and_other_worlds(
    snapshot: Snapshot,
    worlds: list[tuple[int, int]],
    steps: list[int],
    batch: int,
    strands: int,
    shuffle: bool,
    epoch: int,
) -> None:
    make = maker(snapshot, batch=batch, strands=strands, shuffle=shuffle)
    state, seen = None, []
    for (world, workers), stop in zip(worlds, [*steps[: len(worlds) - 1], None], strict=False):
        ranks, datasets = world_batches(make, world, workers, epoch, state)
        done = [batches[:stop] for batches in ranks]
        seen += clip_ids(done)
        for batches in done:
            assert all(one["epoch"] == epoch and one["bucket"] for one in batches)
        if stop:
            last = [batches[stop - 1] for batches in ranks if len(batches) >= stop]
            if len(last) < world:
                return  # ranks with no batch left: the epoch is over, there is no step to stop at
            states = [data.state_after(one) for data, one in zip(datasets, last, strict=True)]
            assert all(other["position"] == states[0]["position"] for other in states)
            state = states[0]
    assert sorted(seen) == sorted(rows_of(snapshot))


@given(world=st.integers(1, 5), workers=st.integers(0, 3), batch=st.integers(1, 7))
@settings(max_examples=15)
def test_ranks_with_equally_many_full_batches(
    snapshot: Snapshot, world: int, workers: int, batch: int
) -> None:
    ranks, datasets = world_batches(maker(snapshot, batch=batch, drop_last=True), world, workers)
    assert {len(batches) for batches in ranks} == {len(datasets[0])}
    assert {len(one["clip_id"]) for batches in ranks for one in batches} == {batch}
    ids = clip_ids(ranks)
    assert len(set(ids)) == len(ids) > 87 - 2 * (batch - 1) - world * batch


def test_a_bucket_that_never_fills_a_batch_is_told(
    snapshot: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    rows = snapshot.buckets
    small, large = sorted(rows, key=lambda bucket: rows[bucket])
    batch = rows[small] + 1
    options: dict[str, Any] = {"batch": batch, "pool_rows": batch, "drop_last": True}
    maker(snapshot, **options)()
    [line] = caplog.messages
    assert line.startswith(f"{small}: drop_last leaves out all its rows in every epoch")
    assert rows[large] > rows[small]
    caplog.clear()
    maker(snapshot, **options, rank=1, world=2)()
    maker(snapshot, batch=batch, pool_rows=batch)()
    assert not caplog.messages


def test_a_batch_is_of_one_bucket_and_full(snapshot: Snapshot) -> None:
    bucket_of = {
        row["clip_id"]: part.bucket
        for part in snapshot.parts()
        for row in pq.read_table(snapshot.store.locate(part.path)).to_pylist()
    }
    sizes = []
    for batch in maker(snapshot, batch=4)():
        assert {bucket_of[name] for name in batch["clip_id"]} == {batch["bucket"]}
        assert len(batch["fsq"]) == len(batch["clip_id"])
        sizes.append(len(batch["clip_id"]))
    assert sum(size < 4 for size in sizes) <= len(snapshot.buckets)


def test_another_order_each_epoch_and_the_same_again(snapshot: Snapshot) -> None:
    def order(seed: int, epoch: int, world: int = 1) -> list[list[str]]:
        ranks, _ = world_batches(maker(snapshot, seed=seed), world, 0, epoch)
        steps = max(map(len, ranks))
        return [b[n]["clip_id"] for n in range(steps) for b in ranks if n < len(b)]

    assert order(0, 0) == order(0, 0) == order(0, 0, world=3)
    assert len({str(order(*key)) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    for key in ((0, 0), (0, 1), (1, 0)):
        assert sorted(name for batch in order(*key) for name in batch) == sorted(rows_of(snapshot))


def test_neighbours_in_the_source_are_torn_apart(snapshot: Snapshot) -> None:
    units = [
        {name.split("/")[0] for name in batch["clip_id"]}
        for batch in maker(snapshot, batch=8, pool_rows=32, strands=1)()
    ]
    assert sum(map(len, units)) / len(units) > 3


def test_without_shuffle_and_with_one_strand_it_is_the_order_of_the_dataset(
    snapshot: Snapshot,
) -> None:
    found: dict[str, list[str]] = {}
    for batch in maker(snapshot, shuffle=False, strands=1)():
        found.setdefault(batch["bucket"], []).extend(batch["clip_id"])
    for bucket in snapshot.buckets:
        files = [pq.read_table(snapshot.store.locate(p.path)) for p in snapshot.parts(bucket)]
        assert found[bucket] == [name for file in files for name in file["clip_id"].to_pylist()]


def test_the_very_next_batch_after_a_resume(snapshot: Snapshot) -> None:
    make = maker(snapshot)
    whole = [batch["clip_id"] for batch in make()]
    for stop in (1, 7, len(whole)):
        dataset = make()
        batches = iter(dataset)
        assert [next(batches)["clip_id"] for _ in range(stop)] == whole[:stop]
        again = make()
        again.load_state_dict(dataset.state_dict())
        assert len(again) == len(whole) - stop
        assert [batch["clip_id"] for batch in again] == whole[stop:]
        again.set_epoch(1)
        assert len(again) == len(whole), "the next epoch begins at its start"


def test_iterating_again_without_a_new_epoch_gives_the_same(snapshot: Snapshot) -> None:
    dataset = maker(snapshot)()
    whole = [batch["clip_id"] for batch in dataset]
    assert dataset.state_dict()["position"] == len(whole) == len(dataset)
    batches = iter(dataset)
    assert dataset.state_dict()["position"] == 0, "before the first batch"
    assert [batch["clip_id"] for batch in batches] == whole


def test_a_row_group_is_read_once(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[str, int]] = []
    read = RowGroups.read

    def counted(self: RowGroups, part: Part, groups: Sequence[int]) -> Any:
        reads.extend((part.path, group) for group in groups)
        return read(self, part, groups)

    monkeypatch.setattr(RowGroups, "read", counted)
    list(maker(snapshot, strands=1, pool_rows=6)())
    files = [pq.ParquetFile(snapshot.store.locate(part.path)) for part in snapshot.parts()]
    assert len(set(reads)) == sum(file.num_row_groups for file in files)
    assert len(reads) - len(set(reads)) <= len(snapshot.buckets), "where the rest begins"


def test_one_bucket_alone(snapshot: Snapshot) -> None:
    for bucket, rows in snapshot.buckets.items():
        batches = list(maker(snapshot, buckets=[bucket])())
        assert {batch["bucket"] for batch in batches} == {bucket}
        assert sum(len(batch["clip_id"]) for batch in batches) == rows


def test_ranks_are_those_of_torch_distributed(snapshot: Snapshot, tmp_path: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        dataset = TokenDataset(snapshot, COLUMNS, 3)
        assert (dataset.rank, dataset.world) == (0, 1)
        assert (TokenDataset(snapshot, COLUMNS, 3, rank=2, world=4).rank) == 2
    finally:
        torch.distributed.destroy_process_group()


def test_strands_follow_the_ranks_unless_a_state_says_otherwise(snapshot: Snapshot) -> None:
    state = maker(snapshot, strands=None)(rank=0, world=2).state_dict()
    assert state["order"]["strands"] == 16
    alone = maker(snapshot, strands=None)()
    alone.load_state_dict(state)
    assert alone.state_dict()["order"]["strands"] == 16


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch": 4}, r"state: batch = 3, this dataset has 4"),
        ({"seed": 1}, r"state: seed = 0, this dataset has 1"),
        ({"strands": 5}, r"state: strands = 4, this dataset has 5"),
        ({"buckets": ["5x16x16"]}, r"state: buckets = "),
        ({"drop_last": True}, r"state: drop_last = False"),
    ],
)
def test_a_state_of_another_order_is_refused(
    snapshot: Snapshot, changes: dict[str, Any], text: str
) -> None:
    state = maker(snapshot)().state_dict()
    with pytest.raises(ConfigError, match=text):
        maker(snapshot, **changes)().load_state_dict(state)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"columns": ["fsq", "vq"]}, r"columns = \['fsq', 'vq'\]: must be some of clip_id, .*fsq"),
        ({"columns": "fsq"}, r"columns = 'fsq': must be some of"),
        ({"columns": []}, r"columns = \[\]: must be some of"),
        ({"buckets": ["1x1x1"]}, r"buckets = \['1x1x1'\]: must be some of 5x16x16, 9x16x32"),
        ({"batch": 0}, r"batch = 0: must be 1 or more"),
        ({"pool_rows": 2}, r"pool_rows = 2: must be 3 or more"),
        ({"strands": 0}, r"strands = 0: must be 1 or more"),
        ({"seed": -1}, r"seed = -1: must be 0 or more"),
        ({"buckets": []}, r"buckets = \[\]: must be some of 5x16x16, 9x16x32"),
        ({"batch": 2.5}, r"batch = 2\.5: must be a whole number"),
        ({"seed": 1.0}, r"seed = 1\.0: must be a whole number"),
        ({"frames": True}, r"frames = True: must be a whole number"),
        ({"sequence": "2"}, r"sequence = '2': must be a whole number"),
        ({"rank": 2, "world": 2}, r"rank = 2, world = 2: need 0 <= rank < world"),
    ],
)
def test_wrong_arguments(snapshot: Snapshot, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        TokenDataset(snapshot, **{"columns": COLUMNS, "batch": 3} | changes)


def test_a_state_that_is_refused_changes_nothing(snapshot: Snapshot) -> None:
    data = maker(snapshot, strands=None)()
    wanted = data.state_dict()
    state = maker(snapshot, strands=None, seed=1)(rank=0, world=2).state_dict()
    with pytest.raises(ConfigError, match="state: seed = 1"):
        data.load_state_dict(state)
    assert data.state_dict() == wanted


@pytest.mark.parametrize(("epoch", "text"), [(-1, "-1: must be 0 or more"), (0.5, "a whole")])
def test_an_epoch_that_cannot_be(snapshot: Snapshot, epoch: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=f"epoch = .*{text}"):
        maker(snapshot)().set_epoch(epoch)


def test_a_part_that_is_gone_or_damaged(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "corpus"))
    write_units(store, 6)
    snapshot = pipeline.open(store.uri)
    assert tokenizer_columns(snapshot.schema) == snapshot.tokenizers
    path = snapshot.parts()[0].path
    whole = store.read(path)
    store.write(path, whole[: len(whole) // 2])
    with pytest.raises(StoreError, match=rf"{path}: .*; run `python -m pipeline verify`"):
        list(maker(snapshot)())
    store.delete(path)
    with pytest.raises(StoreError, match=rf"{path}: missing; .* open a newer version"):
        list(maker(snapshot)())


def test_a_worker_says_which_part_is_gone(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "corpus"))
    write_units(store, 6)
    snapshot = pipeline.open(store.uri)
    store.delete(snapshot.parts()[0].path)
    loader = torch.utils.data.DataLoader(maker(snapshot)(), batch_size=None, num_workers=1)
    with pytest.raises(StoreError, match="missing; if its unit was done again"):
        list(loader)


def test_nothing_to_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "corpus"))
    write_units(store)
    dataset = maker(pipeline.open(store.uri))()
    assert (len(dataset), list(dataset), rank_batches(dataset, 2)) == (0, [], [])
