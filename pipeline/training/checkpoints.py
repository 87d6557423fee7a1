"""Checkpoints of a stage: complete or not there, whatever is killed when.

    checkpoints/00001000/rank-0.pt … rank-N.pt, then train.pt

Every rank writes what is its own (its clips' cursors, its random generators); the first one writes
what all share, last: a checkpoint counts when its `train.pt` stands.
"""

import io
from typing import Any

import torch
from torch import distributed

from pipeline.errors import ConfigError
from pipeline.storage.store import Store

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
        oldest = _complete(store)[-keep:][0]
        old = [path for path in store.list(_FOLDER) if _step(path) < oldest]
        # The markers first: what is half deleted no longer counts.
        for path in sorted(old, key=lambda path: not path.endswith("/train.pt")):
            store.delete(path)
    _barrier()


def load_last(store: Store, *, rank: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return what `save` was given for the last complete checkpoint, None if there is none.

    What is this rank's also holds `random`, for `set_random_state`.

    Raises:
        ConfigError: it was written by fewer ranks.
    """
    complete = _complete(store)
    if not complete:
        return None
    folder = f"{_FOLDER}/{complete[-1]:08d}"
    shared = _unpacked(store.read(f"{folder}/train.pt"))
    try:
        own = _unpacked(store.read(f"{folder}/rank-{rank}.pt"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"workers: {store.locate(folder)} was written by fewer ranks, and has nothing of rank"
            f" {rank}; go on with as many"
        ) from error
    return shared, own


def _complete(store: Store) -> list[int]:
    return sorted(_step(path) for path in store.list(_FOLDER) if path.endswith("/train.pt"))


def _step(path: str) -> int:
    return int(path.split("/")[1])


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


def set_random_state(state: dict[str, Any]) -> None:
    """Set torch's generators as they were when a checkpoint was saved.

    The last thing before training goes on: initialising networks draws numbers, too.
    """
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _barrier() -> None:
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
