"""Several datasets as one stream: exact, and the same for any ranks, workers and interruptions."""

import json
import pickle
from collections import Counter
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import pipeline
from pipeline.errors import ConfigError
from pipeline.reading import MixedDataset, Snapshot, TokenDataset, mix
from pipeline.storage.store import Store
from tests.pipeline.reading.worlds import Batch, as_worker, write_units

Mixed = list[list[Batch]]
"""Batches of each rank."""


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> list[Snapshot]:
    folder, found = tmp_path_factory.mktemp("mixing"), []
    for n, units in enumerate([(20, 11), (7,), (12, 9, 8)]):
        store = Store(str(folder / str(n)))
        write_units(store, *units)
        found.append(pipeline.open(store.uri))
    return found


def made(
    snapshots: list[Snapshot], rank: int = 0, world: int = 1, run: int = 1, seed: int = 0
) -> MixedDataset:
    options = {"pool_rows": 6, "strands": 4, "drop_last": True, "rank": rank, "world": world}
    datasets = [
        TokenDataset(snapshot, ["clip_id"], batch, seed=batch, **options)
        for batch, snapshot in enumerate(snapshots[:2], 1)
    ]
    return mix(datasets, [3, 1], seed=seed, run=run)


def taken(mixed: MixedDataset, workers: int, steps: int) -> list[Batch]:
    """Return the first batches that a DataLoader with workers yields: theirs by turns."""
    share = -(-steps // max(1, workers))
    shares = []
    for number in range(max(1, workers)):
        with as_worker(number, workers):
            shares.append(list(islice(mixed, share)))
    return [batch for batches in zip(*shares, strict=True) for batch in batches][:steps]


def names(ranks: Mixed) -> list[tuple[int, str]]:
    """Return source and clip ids, step by step."""
    return [
        (batch["source"], name)
        for step in zip(*ranks, strict=True)
        for batch in step
        for name in batch["clip_id"]
    ]


@given(
    worlds=st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 25)), min_size=1, max_size=4
    ),
    run=st.sampled_from([1, 1, 2, 3]),
)
@settings(max_examples=20)
def test_interruptions_and_other_workers_change_nothing(
    snapshots: list[Snapshot], worlds: list[tuple[int, int, int]], run: int
) -> None:
    world = worlds[0][0]
    total = sum(steps for _, _, steps in worlds)
    whole = [taken(made(snapshots, rank, world, run), 0, total) for rank in range(world)]
    seen: Mixed = [[] for _ in range(world)]
    state = None
    for _, workers, steps in worlds:
        states = []
        for rank in range(world):
            mixed = made(snapshots, rank, world, run)
            if state is not None:
                mixed.load_state_dict(state)
            batches = taken(mixed, workers, steps)
            seen[rank] += batches
            states.append(mixed.state_after(batches[-1]) if batches else mixed.state_dict())
        assert all(other == states[0] for other in states)
        state = json.loads(json.dumps(states[0]))
    for mine, wanted in zip(seen, whole, strict=True):
        assert [each["clip_id"] for each in mine] == [each["clip_id"] for each in wanted]
        assert [each["source"] for each in mine] == [each["source"] for each in wanted]
        assert [each["epoch"] for each in mine] == [each["epoch"] for each in wanted]
    for step in zip(*whole, strict=True):
        assert len({batch["source"] for batch in step}) == 1, "ranks agree on the source"


def test_every_row_of_each_dataset_once_in_each_of_its_epochs(snapshots: list[Snapshot]) -> None:
    mixed = made(snapshots)
    batches = taken(mixed, 2, 300)
    for source, snapshot in enumerate(snapshots[:2]):
        last = max(batch["epoch"] for batch in batches if batch["source"] == source)
        assert last >= 3
        for epoch in range(last):
            rows = Counter(
                name
                for batch in batches
                if (batch["source"], batch["epoch"]) == (source, epoch)
                for name in batch["clip_id"]
            )
            left_over = sum(count % (source + 1) for count in snapshot.buckets.values())
            assert set(rows.values()) == {1}
            assert len(rows) == len(snapshot) - left_over


@pytest.mark.parametrize(("world", "other"), [(1, 3), (2, 1), (3, 2)])
def test_another_number_of_ranks_continues(
    snapshots: list[Snapshot], world: int, other: int
) -> None:
    steps = 5
    before = [taken(made(snapshots, rank, world), 2, steps) for rank in range(world)]
    state = made(snapshots, 0, world).state_after(before[0][-1])
    after = []
    for rank in range(other):
        mixed = made(snapshots, rank, other)
        mixed.load_state_dict(state)
        after.append(taken(mixed, 0, 60))
    seen = Counter(
        (batch["source"], name)
        for ranks in (before, after)
        for batches in ranks
        for batch in batches
        if batch["epoch"] == 0
        for name in batch["clip_id"]
    )
    assert set(seen.values()) == {1}
    rows = sum(len(snapshot) for snapshot in snapshots[:2])
    assert rows - 3 - 2 * other * 2 < len(seen) <= rows


def test_weights_and_seed(snapshots: list[Snapshot]) -> None:
    def sources(steps: int = 1200, **options: Any) -> list[int]:
        return [batch["source"] for batch in islice(made(snapshots, **options), steps)]

    share = sources().count(0) / 1200
    assert abs(share - 0.75) < 3 * (0.75 * 0.25 / 1200) ** 0.5
    assert sources(50) != sources(50, seed=1)
    runs = sources(80, run=8)
    assert all(len(set(runs[start : start + 8])) == 1 for start in range(0, 80, 8))
    assert len(set(runs)) == 2


def test_one_dataset_is_read_as_it_is(snapshots: list[Snapshot]) -> None:
    options = {"pool_rows": 6, "strands": 4}
    data = TokenDataset(snapshots[0], ["clip_id"], 3, **options)
    data.set_epoch(2)
    wanted = [batch["clip_id"] for batch in data]
    mixed = mix([data], [1.0])
    assert [batch["clip_id"] for batch in islice(mixed, len(wanted))] == wanted
    halfway = TokenDataset(snapshots[0], ["clip_id"], 3, **options)
    halfway.load_state_dict(data.state_after(next(iter(data))))
    assert [b["clip_id"] for b in islice(mix([halfway], [1]), len(wanted) - 1)] == wanted[1:]


def test_real_workers_hand_out_what_one_process_does(snapshots: list[Snapshot]) -> None:
    mixed = pickle.loads(pickle.dumps(made(snapshots)))  # as to a worker that is spawned
    alone = [batch["clip_id"] for batch in islice(mixed, 30)]
    loader = DataLoader(mixed, batch_size=None, num_workers=2)
    batches = list(islice(loader, 30))
    assert [batch["clip_id"] for batch in batches] == alone
    again = made(snapshots)
    again.load_state_dict(mixed.state_after(batches[9]))
    assert [batch["clip_id"] for batch in islice(again, 20)] == alone[10:]


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 calls it
@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_of_torchdata_resumes(snapshots: list[Snapshot], workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    whole = [batch["clip_id"] for batch in islice(made(snapshots), 40)]
    first = stateful(made(snapshots), batch_size=None, num_workers=workers)
    batches = iter(first)
    assert [next(batches)["clip_id"] for _ in range(17)] == whole[:17]
    again = stateful(made(snapshots), batch_size=None, num_workers=workers)
    again.load_state_dict(first.state_dict())
    assert [batch["clip_id"] for batch in islice(again, 23)] == whole[17:]


def test_a_state_of_numpy_numbers_is_json(snapshots: list[Snapshot]) -> None:
    one, two, on = np.int64(1), np.int64(2), np.bool_(True)
    options = {"seed": one, "strands": two, "rank": one, "world": two, "drop_last": on}
    data = TokenDataset(snapshots[0], ["clip_id"], two, pool_rows=two, **options)
    data.set_epoch(one)
    mixed = mix([data], [one], seed=one, run=two)
    for reader in (data, mixed):
        state = reader.state_after(next(iter(reader)))
        assert json.loads(json.dumps(state)) == state
        reader.load_state_dict(state)


def test_wrong_arguments(snapshots: list[Snapshot]) -> None:
    make = partial(TokenDataset, snapshots[0], ["clip_id"], 3)
    wrong: list[tuple[Any, str]] = [
        (lambda: mix([make()], [1, 2]), "mix: 1 datasets and 2 weights"),
        (lambda: mix([], []), "mix: 0 datasets and 0 weights"),
        (lambda: mix([make()], [0]), r"mix: weights = \[0\]: must be above 0"),
        (lambda: mix([make()], [float("nan")]), "must be above 0"),
        (lambda: mix([make()], [1], seed=-1), "need seed >= 0 and run >= 1"),
        (lambda: mix([make()], [1], run=0), "need seed >= 0 and run >= 1"),
        (lambda: mix([make()], [1], run=1.5), r"run = 1\.5: must be a whole number"),
        (lambda: mix([make(), make(rank=0, world=2)], [1, 1]), r"\[\(0, 1\), \(0, 2\)\]"),
        (lambda: mix([make(rank=0, world=2)], [1]), "dataset 0: some of 2 ranks .*drop_last=True"),
        (lambda: mix([make(drop_last=True, rank=0, world=90)], [1]), "dataset 0 has no batch"),
    ]
    for call, text in wrong:
        with pytest.raises(ConfigError, match=text):
            call()


def test_a_state_of_another_mix_is_refused(snapshots: list[Snapshot]) -> None:
    state = made(snapshots).state_dict()
    alone = TokenDataset(snapshots[0], ["clip_id"], 3)
    for wrong in (alone.state_dict(), {}, None, {**state, "order": None}):
        with pytest.raises(ConfigError, match="state: is not that of a mix of datasets; load what"):
            made(snapshots).load_state_dict(wrong)
    for wrong in (state, {}, None, {**alone.state_dict(), "order": None}):
        with pytest.raises(ConfigError, match="state: is not that of a TokenDataset; load what"):
            alone.load_state_dict(wrong)
    with pytest.raises(ConfigError, match="state: seed = 0, this mix has 1"):
        made(snapshots, seed=1).load_state_dict(state)
    with pytest.raises(ConfigError, match="state: run = 1, this mix has 2"):
        made(snapshots, run=2).load_state_dict(state)
    with pytest.raises(ConfigError, match="state: version = 1, this dataset has 3"):
        made([snapshots[0], snapshots[2]]).load_state_dict(state)
