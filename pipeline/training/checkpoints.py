"""Checkpoints of a stage, written while training continues; each is complete when it exists.

    checkpoints/00001000.pt

A file holds the state that all ranks share, and the state of each rank: the cursors of its clips
and its random generators. The first rank writes it. A kill at any moment leaves the checkpoint
before it usable.
"""

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, distributed

from pipeline.errors import DamagedFile, Diverged, StoreError, one_line
from pipeline.storage.store import Store
from vidtok.training.ranks import in_group

_FOLDER: Final = "checkpoints"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read."""

    shared: dict[str, Any]
    """State that is the same on all ranks."""
    ranks: list[dict[str, Any]]
    """State of each rank, with `random` for `set_random_state`."""


class CheckpointWriter:
    """Writes the checkpoints of one stage, one at a time, in a thread of the first rank.

    Args:
        store: the stage's folder.
        keep: number of checkpoints to keep.
    """

    def __init__(self, store: Store, *, keep: int) -> None:
        self._store = store
        self._keep = keep
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._written: Future[None] | None = None

    def save(self, step: int, shared: dict[str, Any], own: dict[str, Any]) -> None:
        """Begin a checkpoint; all ranks must call this at the same step.

        The state is copied before this returns, or, on a GPU, before the device changes it. The
        thread writes the copy. A checkpoint that is not written yet is waited for first.

        Args:
            step: batches so far; the checkpoint's name.
            shared: state that is the same on all ranks; only the first rank's is written.
            own: state of this rank.

        Raises:
            StoreError: the checkpoint before this one could not be written.
            Diverged: its state was not finite, so it was not written.
        """
        self.wait()
        ranks = from_all_ranks(own | {"random": _random_state()})
        if _is_first():
            copy, wait = _copied({"shared": shared, "ranks": ranks})
            self._written = self._thread.submit(self._write, step, copy, wait)

    def wait(self) -> None:
        """Return once the last checkpoint is written.

        Raises:
            StoreError: it could not be written.
            Diverged: its state was not finite, so it was not written.
        """
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """End the thread after a checkpoint in flight, whose error is not raised."""
        self._thread.shutdown()

    def _write(self, step: int, state: dict[str, Any], wait: Callable[[], None]) -> None:
        wait()
        require_finite(step, state["shared"])
        path = f"{_FOLDER}/{step:08d}.pt"
        file = io.BytesIO()
        torch.save(state, file)
        try:
            self._store.write(path, file.getvalue())
            kept = _complete(self._store)[-self._keep :]
            # Whatever else is there is older, or was left by a process that was killed in writing.
            for stored in list(self._store.files(_FOLDER)):
                if stored.path not in kept:
                    self._store.delete(stored.path)
        except StoreError as error:
            raise StoreError(
                f"the checkpoint of batch {step} cannot be written: {error}; repair the output, and"
                " run the same command again"
            ) from error


def require_finite(step: int, state: Any) -> None:
    """Check all tensors in nested dicts and lists.

    Raises:
        Diverged: a value is infinite or NaN.
    """
    if isinstance(state, Tensor):
        if not state.isfinite().all():
            raise Diverged(f"batch {step}: the weights or their optimizer's state are not finite")
    elif isinstance(state, dict | list):
        for part in state.values() if isinstance(state, dict) else state:
            require_finite(step, part)


def load_last(store: Store) -> Checkpoint | None:
    """Return the last checkpoint in a stage's folder; None without one.

    Raises:
        DamagedFile: it is damaged.
    """
    complete = _complete(store)
    if not complete:
        return None
    data = io.BytesIO(store.read(complete[-1]))
    try:
        return Checkpoint(**torch.load(data, map_location="cpu", weights_only=True))
    except Exception as error:  # damaged content can raise anything
        raise DamagedFile(
            f"{store.locate(complete[-1])}: not a complete checkpoint"
            f" ({one_line(error, max_chars=90)}); delete it, and run the same command again: it"
            " continues from the one before"
        ) from error


def set_random_state(state: dict[str, Any]) -> None:
    """Set torch's generators to their state at a checkpoint.

    This must be the last step before training continues: initialising networks draws numbers, too.
    """
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def from_all_ranks(value: Any) -> list[Any]:
    """Return the value of each rank, in order; all ranks must call this."""
    if not in_group():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def wait_for_all_ranks() -> None:
    """Return once every rank has called this; at once without a process group."""
    if in_group():
        distributed.barrier()


def _is_first() -> bool:
    return not in_group() or distributed.get_rank() == 0


def _complete(store: Store) -> list[str]:
    return [path for path in store.list(_FOLDER) if path.endswith(".pt")]


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _copied(state: dict[str, Any]) -> tuple[dict[str, Any], Callable[[], None]]:
    """Return a copy in CPU memory, and what waits until it is complete.

    Copies from a GPU are queued behind the step that is running, so this does not wait for it.
    """

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            copy = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
            return copy.copy_(value.detach(), non_blocking=True)
        if isinstance(value, dict):
            return {name: copied(part) for name, part in value.items()}
        if isinstance(value, list):
            return [copied(part) for part in value]
        return value

    copy: dict[str, Any] = copied(state)
    if not torch.cuda.is_available():
        return copy, lambda: None
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record()
    return copy, done.synchronize
