"""Checkpoints of a stage: a kill at any moment leaves each complete or without effect.

    checkpoints/00001000/rank-0.pt … rank-N.pt, then train.pt

Every rank writes its own state: the cursors of its clips and its random generators. The first rank
writes the shared state last. A checkpoint counts when its `train.pt` exists.
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
    """Write a checkpoint; all ranks must call this with the same step.

    Args:
        store: the stage's folder.
        step: batches so far; the checkpoint's name.
        shared: state that is the same on all ranks; only the first rank's is written.
        own: state of this rank.
        rank: number of this process.
        keep: number of checkpoints to keep.
    """
    folder = f"{_FOLDER}/{step:08d}"
    store.write(f"{folder}/rank-{rank}.pt", _packed(own | {"random": _random_state()}))
    wait_for_all_ranks()
    if rank == 0:
        store.write(f"{folder}/train.pt", _packed(shared))
        oldest = _complete(store)[-keep:][0]
        old = [path for path in store.list(_FOLDER) if _step(path) < oldest]
        # The markers first: a checkpoint that is half deleted must not count.
        for path in sorted(old, key=lambda path: not path.endswith("/train.pt")):
            store.delete(path)
    wait_for_all_ranks()


def load_last(store: Store, *, rank: int) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return the shared state and this rank's of the last complete checkpoint; None without one.

    This rank's state also holds `random`, for `set_random_state`.

    Raises:
        ConfigError: fewer ranks wrote the checkpoint.
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
            f"workers: {store.locate(folder)} was written by fewer ranks, and holds nothing of rank"
            f" {rank}; continue with as many ranks as before"
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
    """Set torch's generators to their state at a checkpoint.

    This must be the last step before training continues: initialising networks draws numbers, too.
    """
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def wait_for_all_ranks() -> None:
    """Return once every rank has called this; at once without a process group."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.barrier()
