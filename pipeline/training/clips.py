"""Batches of training clips, made by worker processes and resumable after any batch.

    ClipStream (one per worker) ─► batch with its cursor ─► DataLoader ─► TrainingClips

Workers run ahead of the training. So every batch carries the cursor behind it, and `TrainingClips`
keeps each worker's cursor of the last batch that it returned. Workers take turns, so the state is
these cursors and the number of the next worker.
"""

import hashlib
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipeline.errors import ConfigError, PipelineError, message_of
from pipeline.records import WorkUnit
from pipeline.sources.planning import plan_units
from pipeline.training.clip_config import ClipSourceConfig
from pipeline.training.segments import source_keys, source_uris
from pipeline.training.stream import ClipStream, Cursor, dealt_again


@dataclass(frozen=True, slots=True)
class _Batch:
    clips: Tensor
    cursor: Cursor
    skipped: dict[str, str]
    """Videos found broken since the worker's previous batch: `unit/key` → reason and detail."""

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory: the DataLoader's thread calls this."""
        return replace(self, clips=self.clips.pin_memory())


@dataclass(frozen=True, eq=False)
class _Batches(IterableDataset[_Batch | PipelineError]):
    """The batches of all workers; each worker gets a pickle of it and makes its own."""

    config: ClipSourceConfig
    units: Sequence[WorkUnit]
    batch: int
    lanes: Sequence[int]
    """The lane of each worker."""
    num_lanes: int
    """Lanes of all ranks together."""
    cursors: Sequence[Cursor]

    def __iter__(self) -> Iterator[_Batch | PipelineError]:
        worker = get_worker_info()
        turn = 0 if worker is None else worker.id
        stream = ClipStream(
            self.config,
            self.units,
            lane=self.lanes[turn],
            lanes=self.num_lanes,
            cursor=self.cursors[turn],
        )
        with closing(stream):
            clips = iter(stream)
            known = 0
            while True:
                try:
                    batch = torch.stack(list(islice(clips, self.batch)))
                except PipelineError as error:
                    yield error  # as a value: the DataLoader adds a traceback to what it raises
                    return
                skipped = dict(islice(stream.skipped.items(), known, None))
                known += len(skipped)
                yield _Batch(batch, stream.cursor(), skipped)


class TrainingClips:
    """An endless iterator over batches of clips, uint8 `[B, T, H, W, 3]`.

    The batches depend on the source's names and contents, on the configuration (except `keep_mb`
    and `storage_options`), on batch, rank, world and workers, and on earlier numbers of these.

    Args:
        config: the source and the shape of a clip.
        batch: B, clips in a batch.
        rank: number of this process among those that share the corpus, from 0.
        world: number of these processes.
        workers: number of processes that decode ahead; 0 decodes in this process.
        ahead: number of batches that each of them decodes ahead.
        pin_memory: whether batches are in page-locked memory, from which a copy to a GPU does not
            wait.

    Attributes:
        skipped: broken videos in the batches so far, each once: `unit/key` → reason and detail.

    Raises:
        ConfigError: a source matches nothing.
    """

    def __init__(
        self,
        config: ClipSourceConfig,
        batch: int,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        ahead: int = 2,
        pin_memory: bool = False,
    ) -> None:
        if batch < 1 or not 0 <= rank < world or workers < 0:
            raise ConfigError(
                f"batch = {batch}, rank = {rank}, world = {world}, workers = {workers}: need"
                " batch >= 1, 0 <= rank < world and workers >= 0"
            )
        self._config = config
        self._batch = batch
        self._rank = rank
        self._world = world
        self._workers = workers
        self._ahead = ahead
        self._pin_memory = pin_memory
        self._units = plan_units(config, single=True)
        streams = max(1, workers)
        self._lanes = range(rank * streams, (rank + 1) * streams)
        self._cursors: list[Cursor] = [None] * streams
        self._turn = 0
        self._batches: Iterator[_Batch | PipelineError] | None = None
        self.skipped: dict[str, str] = {}

    @property
    def uris(self) -> set[str]:
        """URIs of the source's tars, loose files and lists."""
        return source_uris(self._units)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        """Return the next batch.

        Raises:
            ConfigError: no video of the source can be decoded.
            StoreError: the source cannot be read.
            PipelineError: a worker process ended.
        """
        if self._batches is None:
            self._batches = self._start()
        try:
            batch = next(self._batches)
        except (ConnectionError, EOFError) as error:  # it ended while it handed over a batch
            raise loader_ended(error) from error
        if isinstance(batch, PipelineError):
            self.close()
            raise batch
        self._cursors[self._turn] = batch.cursor
        self._turn = (self._turn + 1) % len(self._cursors)
        for video, why in batch.skipped.items():
            self.skipped.setdefault(video, why)
        return batch.clips

    def close(self) -> None:
        """End the workers and their decoders. The next batch starts new ones."""
        self._batches = None  # the last reference: the DataLoader's iterator ends what it started

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON-like values, that all following batches depend on."""
        return {
            "of": self._identity(),
            "cursors": list(self._cursors),
            "turn": self._turn,
            "skipped": dict(self.skipped),
        }

    def load_state_dicts(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue behind the batches after which the states of all ranks were taken.

        With the same numbers of ranks and workers, exactly the same batches follow. With others,
        the rest of the epoch is dealt again; see `dealt_again`.

        Args:
            states: `state_dict` of every rank, in order.

        Raises:
            ConfigError: the states belong to another configuration or corpus.
        """
        for field, value in self._identity().items():
            if (saved := states[0]["of"].get(field)) != value:
                raise ConfigError(
                    f"{field} = {value}: the saved state of the training clips has {field} ="
                    f" {saved}; continue with that value, or start a new run"
                )
        self.close()
        streams = len(self._cursors)
        if [len(state["cursors"]) for state in states] == [streams] * self._world:
            own = states[self._rank]
            self._cursors, self._turn = list(own["cursors"]), own["turn"]
            self.skipped = dict(own["skipped"])
        else:
            cursors = [cursor for state in states for cursor in state["cursors"]]
            self._cursors = [dealt_again(cursors, len(self._units))] * streams
            self._turn = 0
            self.skipped = {k: why for state in states for k, why in state["skipped"].items()}

    def _start(self) -> Iterator[_Batch | PipelineError]:
        # The loader begins with its first worker, so the stream of the next turn comes first.
        turns = [*range(self._turn, len(self._cursors)), *range(self._turn)]
        batches = _Batches(
            self._config,
            self._units,
            self._batch,
            [self._lanes[n] for n in turns],
            self._world * len(self._cursors),
            [self._cursors[n] for n in turns],
        )
        loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=self._ahead if self._workers else None,
            pin_memory=self._pin_memory,
            multiprocessing_context=_fork_server() if self._workers else None,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # not the training's generator
        )
        return iter(loader)

    def _identity(self) -> dict[str, Any]:
        """Return everything that the batches depend on, as JSON-like values."""
        # Without the folders, so that a corpus can move.
        names = [key for unit in self._units for key in source_keys(unit)]
        how = self._config.model_dump(
            mode="json", exclude={"uri", "exclude", "storage_options", "keep_mb"}
        )
        return {
            **how,
            "videos": hashlib.sha256("\0".join(names).encode()).hexdigest()[:16],
            "batch": self._batch,
        }


def loader_ended(error: Exception) -> PipelineError:
    """Return the error of a training whose worker process ended, for example for lack of memory."""
    return PipelineError(
        f"a loader ended: {message_of(error)}; if the memory was full, lower loaders,"
        " loader_batches, keep_mb or clips.shuffle_segments"
    )


def _fork_server() -> Any:
    """Return the way to start workers: forks of a process that has imported what they need.

    A fork of the training itself could inherit locks that its threads hold.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _begin_worker(worker: int) -> None:
    """Leave Ctrl-C, which reaches all processes of a terminal, to the parent, and end with it.

    A DataLoader's worker notices the death of the process that it was forked from only, which is
    the server. The server lives as long as a worker does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    Thread(target=end_with_parent, daemon=True).start()
