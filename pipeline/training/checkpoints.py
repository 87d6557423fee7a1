"""Checkpoints of a stage: complete or not there, whatever is killed when.

    checkpoints/00001000/rank-0.pt … rank-N.pt, then train.pt

Every rank writes what is its own (its clips' cursors, its random generators); the first one writes
what all share, last: a checkpoint counts when its `train.pt` stands.
"""

import io
from typing import Any

import torch
from torch import distributed

from pipeline.storage import Store

_FOLDER = "checkpoints"


def save(
    store: Store, step: int, shared: dict[str, Any], own: dict[str, Any], *, rank: int, keep: int
) -> None:
    """Write a checkpoint; all ranks call this with the same step.

    Args:
        store: the stage's folder.
        step: batches so far; the checkpoint's name.
        shared: what is the same on all ranks; only the first rank's is written.
        own: what is this rank's.
        rank: of this process.
        keep: how many checkpoints stay.
    """
    folder = f"{_FOLDER}/{step:08d}"
    store.write(f"{folder}/rank-{rank}.pt", _packed(own | {"random": _random_state()}))
    _barrier()
    if rank == 0:
        store.write(f"{folder}/train.pt", _packed(shared))
        for old in _complete(store)[:-keep]:
            # The marker first: what is half deleted no longer counts.
            store.delete(f"{_FOLDER}/{old:08d}/train.pt")
            for path in store.list(f"{_FOLDER}/{old:08d}"):
                store.delete(path)
    _barrier()


def load_last(store: Store, *, rank: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return what `save` was given for the last complete checkpoint, None if there is none.

    The generators of random numbers are set as they were.

    Raises:
        FileNotFoundError: it was written by fewer ranks.
    """
    complete = _complete(store)
    if not complete:
        return None
    folder = f"{_FOLDER}/{complete[-1]:08d}"
    shared = _unpacked(store.read(f"{folder}/train.pt"))
    own = _unpacked(store.read(f"{folder}/rank-{rank}.pt"))
    _set_random_state(own.pop("random"))
    return shared, own


def _complete(store: Store) -> list[int]:
    found = [path.split("/") for path in store.list(_FOLDER)]
    return sorted(int(parts[1]) for parts in found if parts[-1] == "train.pt")


def _packed(state: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def _unpacked(data: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _barrier() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
