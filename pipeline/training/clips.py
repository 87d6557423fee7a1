"""Batches of training clips, made by worker processes, that go on where they stopped.

    ClipStream (one per worker) ─► batch with its cursor ─► DataLoader ─► TrainingClips

Workers run ahead, so where they are is not where the training is. Every batch carries the cursor
behind it, and `TrainingClips` keeps, for each worker, that of the last batch that it handed out.
Workers take turns, so the state is these cursors and whose turn it is.
"""

import hashlib
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipeline.errors import ConfigError
from pipeline.records import WorkUnit
from pipeline.training.clip_config import ClipSourceConfig
from pipeline.training.segments import plan_videos, source_keys
from pipeline.training.stream import ClipStream

Cursor = dict[str, Any] | None
"""Of `ClipStream`; None before its first clip."""


@dataclass(frozen=True, slots=True)
class _Batch:
    clips: Tensor
    cursor: Cursor
    skipped: dict[str, str]
    """Those found since the worker's batch before."""


class _Batches(IterableDataset[_Batch]):
    """What one worker does; goes to it as a pickle."""

    def __init__(
        self,
        config: ClipSourceConfig,
        units: Sequence[WorkUnit],
        batch: int,
        lanes: Sequence[int],
        num_lanes: int,
        cursors: Sequence[Cursor],
    ) -> None:
        self._config = config
        self._units = units
        self._batch = batch
        self._lanes = lanes
        self._num_lanes = num_lanes
        self._cursors = cursors

    def __iter__(self) -> Iterator[_Batch]:
        worker = get_worker_info()
        turn = 0 if worker is None else worker.id
        stream = ClipStream(
            self._config,
            self._units,
            lane=self._lanes[turn],
            lanes=self._num_lanes,
            cursor=self._cursors[turn],
        )
        with closing(stream):
            clips = iter(stream)
            told = 0
            while True:
                batch = torch.stack(list(islice(clips, self._batch)))
                news = dict(islice(stream.skipped.items(), told, None))
                told += len(news)
                yield _Batch(batch, stream.cursor(), news)


class TrainingClips:
    """An endless iterator over batches of clips, uint8 `[B, T, H, W, 3]`.

    The batches are a function of the source's names and contents, of the configuration (but for
    `keep_mb` and `storage_options`), and of batch, rank, world and workers.

    Args:
        config: the source and the shape of a clip.
        batch: B, clips in a batch.
        rank: of this process among those that share the corpus.
        world: how many these are.
        workers: processes that decode ahead; 0 decodes in this one.

    Attributes:
        skipped: videos that could not be used, or not to their end: `unit/key` → reason and detail.
            Those that the batches so far came across, each once.

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
    ) -> None:
        if batch < 1 or not 0 <= rank < world or workers < 0:
            raise ConfigError(
                f"batch = {batch}, rank = {rank}, world = {world}, workers = {workers}: need"
                " batch >= 1, 0 <= rank < world and workers >= 0"
            )
        self._config = config
        self._batch = batch
        self._world = world
        self._workers = workers
        self._units = plan_videos(config)
        streams = max(1, workers)
        self._lanes = range(rank * streams, (rank + 1) * streams)
        self._cursors: list[Cursor] = [None] * streams
        self._turn = 0
        self._batches: Iterator[_Batch] | None = None
        self.skipped: dict[str, str] = {}

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        """Return the next batch.

        Raises:
            ConfigError: not one video of the source can be decoded.
            StoreError: the source cannot be read now.
        """
        if self._batches is None:
            self._batches = self._start()
        batch = next(self._batches)
        self._cursors[self._turn] = batch.cursor
        self._turn = (self._turn + 1) % len(self._cursors)
        for video, why in batch.skipped.items():
            self.skipped.setdefault(video, why)
        return batch.clips

    def close(self) -> None:
        """End the workers and their decoders. The next batch would start others."""
        self._batches = None  # the last reference: the DataLoader's iterator ends what it started

    def state_dict(self) -> dict[str, Any]:
        """Return JSON-like values from which the next batch and all after it can be made again."""
        return {
            "of": self._identity(),
            "cursors": list(self._cursors),
            "turn": self._turn,
            "skipped": dict(self.skipped),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on behind the batch after which the state was taken.

        Raises:
            ConfigError: the state is of another configuration, corpus, or number of processes.
        """
        for field, value in self._identity().items():
            if (saved := state["of"].get(field)) != value:
                raise ConfigError(
                    f"{field} = {value}: the saved state of the training clips is of {field} ="
                    f" {saved}; go on with that, or start the clips anew"
                )
        self.close()
        self._cursors = list(state["cursors"])
        self._turn = state["turn"]
        self.skipped = dict(state["skipped"])

    def _start(self) -> Iterator[_Batch]:
        # The loader begins with its first worker, so the stream whose turn it is becomes that.
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
            multiprocessing_context="spawn" if self._workers else None,
            worker_init_fn=_leave_interrupts_to_the_parent,
            generator=torch.Generator(),  # else it would take numbers from the training's
        )
        return iter(loader)

    def _identity(self) -> dict[str, Any]:
        """Return all that the batches follow from, as JSON-like values."""
        # Without the folders: a corpus may have moved.
        names = [key for unit in self._units for key in source_keys(unit)]
        how = self._config.model_dump(
            mode="json", exclude={"uri", "exclude", "storage_options", "keep_mb"}
        )
        return {
            **how,
            "videos": hashlib.sha256("\0".join(names).encode()).hexdigest()[:16],
            "batch": self._batch,
            "lanes": [*self._lanes],
            "world": self._world,
        }


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches all processes of a terminal; a worker that dies of it first is an error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
