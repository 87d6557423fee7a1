"""TokenDataset under real loaders: worker processes, and torchdata's resumable loader."""

from typing import Any

import pytest
from torch.utils.data import DataLoader

import pipeline
from pipeline.reading import Snapshot, TokenDataset
from pipeline.storage.store import Store
from tests.pipeline.reading.worlds import write_units


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    store = Store(str(tmp_path_factory.mktemp("reading") / "corpus"))
    write_units(store, 20, 11)
    return pipeline.open(store.uri)


def dataset(snapshot: Snapshot, **options: Any) -> TokenDataset:
    return TokenDataset(snapshot, ["clip_id", "fsq"], 3, pool_rows=6, strands=4, **options)


def names(batches: Any) -> list[list[str]]:
    return [batch["clip_id"] for batch in batches]


# Spawned workers get a pickled dataset, and import torch for two seconds each: one shows it.
@pytest.mark.parametrize(("context", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_hand_out_what_one_process_does(
    snapshot: Snapshot, context: str, workers: int
) -> None:
    alone = dataset(snapshot)
    loader = DataLoader(
        alone, batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    assert len(loader) == len(alone)
    assert names(loader) == names(alone)


def test_workers_that_stay_hear_of_the_next_epoch(snapshot: Snapshot) -> None:
    data = dataset(snapshot)
    loader = DataLoader(data, batch_size=None, num_workers=2, persistent_workers=True)
    epochs = []
    for epoch in range(3):
        data.set_epoch(epoch)
        epochs.append(names(loader))
        assert epochs[-1] == names(data)
    assert len({str(epoch) for epoch in epochs}) == 3


def test_a_state_from_a_batch_goes_on_with_other_workers(snapshot: Snapshot) -> None:
    data = dataset(snapshot)
    data.set_epoch(2)
    whole = names(data)
    batches = iter(DataLoader(data, batch_size=None, num_workers=2))
    for _ in range(5):
        last = next(batches)
    state = data.state_after(last)
    again = dataset(snapshot)
    again.load_state_dict(state)
    assert names(DataLoader(again, batch_size=None, num_workers=1)) == whole[5:]
    again.set_epoch(2)
    assert names(again) == whole[5:], "the epoch that it is in already"


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 calls it
@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_of_torchdata_resumes(snapshot: Snapshot, workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader

    def loader() -> Any:
        data = dataset(snapshot, rank=1, world=2)
        data.set_epoch(1)
        return stateful(data, batch_size=None, num_workers=workers)

    whole = names(loader())
    assert len(whole) == len(loader()) >= 5
    first = loader()
    batches, seen, states = iter(first), [], {0: first.state_dict()}
    for step in range(1, len(whole) + 1):
        seen += names([next(batches)])
        states[step] = first.state_dict()
    assert seen == whole
    for step in (0, 1, 4, len(whole)):
        again = loader()
        again.load_state_dict(states[step])
        assert seen[:step] + names(again) == whole, step
