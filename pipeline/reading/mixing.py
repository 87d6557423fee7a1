"""Several datasets as one stream of batches, each batch of one of them, drawn by weights.

The source of a step follows from the seed and the number of the step, so it is the same on all
ranks and workers. A source is read in its own order, epoch after epoch. The state is the number of
steps and each source's position in its order: another number of ranks or workers continues from it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, groupby
from typing import Any, Final

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.errors import ConfigError
from pipeline.reading.checks import plain, require_free, require_state, require_whole
from pipeline.reading.epoch_order import MIX, draws
from pipeline.reading.token_dataset import TokenDataset

_DRAWN_AT_ONCE: Final = 1024

Places = tuple[tuple[int, int], ...]
"""Epoch of each source, and position in its order."""


@dataclass(frozen=True, slots=True)
class _Turns:
    """A position in the stream."""

    step: int
    """Number of steps before."""
    places: Places
    """Places of the sources after these steps."""


class MixedDataset(IterableDataset[dict[str, Any]]):
    """Batches of several datasets; made by `mix`, whose arguments it takes.

    The stream has no end. A batch is one of a `TokenDataset`, with its `bucket` and `epoch`, and
    holds `source`, the number of the dataset, and `step` and `places`, from which `load_state_dict`
    continues.
    """

    def __init__(
        self, datasets: Sequence[TokenDataset], weights: Sequence[float], *, seed: int, run: int
    ) -> None:
        if not datasets or len(datasets) != len(weights):
            raise ConfigError(
                f"mix: {len(datasets)} datasets and {len(weights)} weights; give one weight each"
            )
        if not all(math.isfinite(weight) and weight > 0 for weight in weights):
            raise ConfigError(f"mix: weights = {list(weights)}: must be above 0")
        require_whole(seed=seed, run=run)
        if seed < 0 or run < 1:
            raise ConfigError(f"mix: seed = {seed}, run = {run}: need seed >= 0 and run >= 1")
        ranks = sorted({(each.rank, each.world) for each in datasets})
        if len(ranks) > 1:
            raise ConfigError(
                f"mix: the datasets have different ranks: (rank, world) = {ranks}; use the same"
            )
        for n, each in enumerate(datasets):
            require_free(each.columns, ("source", "step", "places"))
            if each.world > 1 and not each.drop_last:
                raise ConfigError(
                    f"mix: dataset {n}: some of {each.world} ranks would have no batch at the end"
                    " of its epoch; set drop_last=True"
                )
            if not each.steps(0):
                raise ConfigError(
                    f"mix: dataset {n} has no batch for this rank; leave it out, or use a"
                    " smaller batch"
                )
        self._datasets = list(datasets)
        self._weights = [float(weight) for weight in weights]
        self._seed = seed
        self._run = run
        self._epoch_steps = [each.steps(0) for each in datasets]
        self._loaded = _Turns(0, tuple(each.place for each in datasets))
        """Where an iteration continues."""
        self._at = self._loaded
        """Where this object is."""
        self._begin_turns(self._loaded)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Return the batches of this rank, or of this worker's share, from the state on.

        Raises:
            StoreError: a part cannot be read.
        """
        self._at = self._loaded
        return self._batches(self._loaded.step)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this object; with workers use `state_after` a batch."""
        return self._state(self._at)

    def state_after(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the state after a batch: the same on ranks that took the same number of steps."""
        return self._state(_Turns(batch["step"], batch["places"]))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; the number of ranks and workers may differ.

        Call it before the loader starts its workers.

        Raises:
            ConfigError: the state is of another mix or of other datasets.
        """
        require_state(state, ("step", "places", "start", "order"), "mix of datasets")
        order = state["order"]
        for name, value in self._order().items():
            if name != "datasets" and value != order.get(name):
                raise ConfigError(
                    f"state: {name} = {order.get(name)!r}, this mix has {value!r}; use the same"
                    " value, or start without a state"
                )
        for each, known in zip(self._datasets, order["datasets"], strict=True):
            each.require_order(known)
        self._at = self._loaded = _turns(state)
        # The state of a worker is loaded into the worker with the same turn, in the same order.
        self._begin_turns(_turns(state["start"]) if get_worker_info() else self._loaded)

    def _begin_turns(self, turns: _Turns) -> None:
        """Set where the turns of ranks and workers begin."""
        self._turns = turns
        pairs = zip(self._datasets, turns.places, strict=True)
        self._first_steps = [each.steps(epoch, start) for each, (epoch, start) in pairs]

    def _batches(self, done: int) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        turn, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        begin = self._turns.step

        def is_left(step: int) -> bool:
            return step >= done and (step - begin) % workers == turn

        readers = [self._read(source, is_left) for source in range(len(self._datasets))]
        taken = [0] * len(self._datasets)
        for step in count(begin):
            source = self._source(step)
            taken[source] += 1
            if is_left(step):
                batch = next(readers[source])
                places = tuple(self._place(n, steps) for n, steps in enumerate(taken))
                self._at = _Turns(step + 1, places)
                yield batch | {"source": source, "step": step + 1, "places": places}

    def _read(self, source: int, is_left: Callable[[int], bool]) -> Iterator[dict[str, Any]]:
        """Yield the batches of a source in the steps that are left, epoch after epoch."""
        dataset, begin = self._datasets[source], self._turns.places[source]
        steps = (step for step in count(self._turns.step) if self._source(step) == source)
        places = (self._place(source, number) for number, step in enumerate(steps) if is_left(step))
        for epoch, group in groupby(places, key=lambda place: place[0]):
            start = begin[1] if epoch == begin[0] else 0
            yield from dataset.read(epoch, (place + dataset.rank for _, place in group), start)

    def _place(self, source: int, steps: int) -> tuple[int, int]:
        """Return epoch and position of a source after a number of steps since turns began."""
        (epoch, start), world = self._turns.places[source], self._datasets[source].world
        left = self._first_steps[source]
        if steps < left:
            return epoch, start + steps * world
        more, steps = divmod(steps - left, self._epoch_steps[source])
        return epoch + 1 + more, steps * world

    def _source(self, step: int) -> int:
        """Return the number of the dataset that a step takes its batch from."""
        block, n = divmod(step // self._run, _DRAWN_AT_ONCE)
        return _drawn(tuple(self._weights), self._seed, block)[n]

    def _state(self, at: _Turns) -> dict[str, Any]:
        turns = {**_values(at), "start": _values(self._turns)}
        return dict(plain({**turns, "order": self._order()}))

    def _order(self) -> dict[str, Any]:
        return {
            "weights": self._weights,
            "seed": self._seed,
            "run": self._run,
            "datasets": [each.order() for each in self._datasets],
        }


@lru_cache(64)
def _drawn(weights: tuple[float, ...], seed: int, block: int) -> list[int]:
    """Return the datasets of a block of choices."""
    numbers = draws(_DRAWN_AT_ONCE, seed, MIX, block).astype(np.float64) / 2**64
    ends = np.cumsum(weights) / sum(weights)
    drawn: list[int] = np.searchsorted(ends[:-1], numbers, "right").tolist()
    return drawn


def _values(turns: _Turns) -> dict[str, Any]:
    return {"step": turns.step, "places": [list(place) for place in turns.places]}


def _turns(values: dict[str, Any]) -> _Turns:
    return _Turns(values["step"], tuple((epoch, start) for epoch, start in values["places"]))


def mix(
    datasets: Sequence[TokenDataset],
    weights: Sequence[float],
    *,
    seed: int = 0,
    run: int = 1,
) -> MixedDataset:
    """Return several datasets as one stream of batches without an end.

    Each dataset begins at its epoch and position. When an epoch of one ends, its next one begins;
    the others continue.

    Args:
        datasets: datasets with batches, columns and seeds of their own. On several ranks they need
            `drop_last`.
        weights: relative number of batches of each dataset.
        seed: random seed of the choice, from 0.
        run: number of steps that one choice holds for. With several workers, a multiple of their
            number lets each worker read row groups of its own; 1 chooses for each batch.

    Raises:
        ConfigError: an argument is wrong, or a dataset has no batch for this rank.
    """
    return MixedDataset(datasets, weights, seed=seed, run=run)
