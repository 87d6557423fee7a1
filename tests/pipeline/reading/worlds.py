"""Ranks and workers in one process: what each rank's DataLoader would hand out, in its order."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from pipeline.reading import TokenDataset
from pipeline.stages.commit import commit_unit
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import write_log
from tests.pipeline.units import LEVELS, SCHEMA, deliver

Batch = dict[str, Any]
Make = Callable[..., TokenDataset]
"""A dataset for `rank` and `world`."""


def write_units(store: Store, *units: int, first: int = 0) -> None:
    """Commit units with these numbers of clips, in small row groups and small parts."""
    records = []
    for n, clips in enumerate(units, first):
        batches = [min(3, clips - start) for start in range(0, clips, 3)]
        sent = deliver(f"u-{n}", batches=batches)
        records.append(
            commit_unit(
                sent.unit,
                sent.closing,
                sent.payloads,
                store=store,
                schema=SCHEMA,
                levels=LEVELS,
                row_group_bytes=1500,
                max_part_bytes=12_000,
            )
        )
    write_log(store, records)


@contextmanager
def as_worker(number: int, count: int) -> Iterator[None]:
    """Let a dataset see itself in worker `number` of `count`; 0 workers is none."""
    worker = SimpleNamespace(id=number, num_workers=count) if count else None
    with (
        patch("pipeline.reading.token_dataset.get_worker_info", return_value=worker),
        patch("pipeline.reading.mixing.get_worker_info", return_value=worker),
    ):
        yield


def rank_batches(dataset: TokenDataset, workers: int) -> list[Batch]:
    """Return what a DataLoader with `workers` workers yields: their batches by turns."""
    shares = []
    for number in range(max(1, workers)):
        with as_worker(number, workers):
            shares.append(list(dataset))
    longest = max(map(len, shares))
    return [share[n] for n in range(longest) for share in shares if n < len(share)]


def world_batches(
    make: Make, world: int, workers: int, epoch: int = 0, state: Any = None
) -> tuple[list[list[Batch]], list[TokenDataset]]:
    """Return the batches of each rank, and their datasets as the training process holds them."""
    datasets = [make(rank=rank, world=world) for rank in range(world)]
    for dataset in datasets:
        if state is not None:
            dataset.load_state_dict(state)
        dataset.set_epoch(epoch)
    return [rank_batches(dataset, workers) for dataset in datasets], datasets


def clip_ids(ranks: list[list[Batch]]) -> list[str]:
    return [name for batches in ranks for batch in batches for name in batch["clip_id"]]
