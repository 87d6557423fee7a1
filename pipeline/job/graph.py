"""The Ray graph of one pass: units in, committed records or reasons out.

    units ─► decode (actors) ─► tokenize (actors) ─► references ─► commit (tasks) ─► Event …

No other module uses Ray Data. Tests kill processes and nodes to check each of these rules:

- `target_max_block_size = 1` makes every row a block of its own: rows are never split or merged.
- The driver handles references only. A small actor reads which unit each block belongs to. When
  all rows of a unit have arrived, a task gets the references and writes the parts.
- Rows arrive in any order, and twice after an actor was lost. The first reference of a number
  counts; the commit's digests decide whether rows of two attempts fit together.
- At most `open_units` commits run. Then the driver pulls nothing, and Ray Data's own back-pressure
  stops the actors.
- Retries are bounded (`max_task_retries`) and lost blocks are tolerated (`max_errored_blocks`). The
  collector notices what is missing: every unit leaves as `UnitDone` or `UnitFailed`.
"""

import contextlib
import logging
import queue
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.dataset.records import UnitRecord
from pipeline.errors import redacted
from pipeline.job.metrics import Recorder
from pipeline.job.resources import Allocation
from pipeline.job.workers import DecodeWorker, TokenizeWorker, WorkerSettings, commit_blocks
from pipeline.records import WorkUnit, from_json, to_json
from pipeline.stages.messages import ABORTED, BATCH, CLOSING, Aborted, Closing

_TASK_RETRIES: Final = 2
"""A row or unit that kills its actor is tried 1 + 2 times; Ray's own default never ends."""


_DESCRIBE_AT_ONCE: Final = 20


_DESCRIBES_OPEN: Final = 2


_COMMIT_RETRIES: Final = 5


_POLL_S: Final = 0.2


_NO_PROGRESS_S: Final = 6 * 3600
"""Seconds without progress after which Ray Data ends a pass. Waiting for nodes counts, and spot
nodes can take hours."""


@dataclass(frozen=True, slots=True)
class BatchDone:
    """A batch row was tokenized; it is not committed yet."""

    num_clips: int
    waiting_s: float
    """Seconds that the actor waited for input since its previous row."""
    busy_s: float
    """Seconds that the actor worked since its previous row."""


@dataclass(frozen=True, slots=True)
class UnitDone:
    """A unit's parts are written; its record is not in the log yet."""

    record: UnitRecord


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """A unit failed in this pass."""

    unit: str
    reason: str


@dataclass(frozen=True, slots=True)
class InFlight:
    """What is under way; sent a few times a second, so that the driver can check its clock."""

    open_units: int
    """Number of units of which rows have arrived, and which are neither done nor failed."""
    rows_held: int
    """Number of tokenized rows of these units."""


Event = BatchDone | UnitDone | UnitFailed | InFlight


def run_pass(
    units: Sequence[WorkUnit],
    settings: WorkerSettings,
    allocation: Allocation,
    recorder: Recorder,
    *,
    careful: bool = False,
    one_by_one: Collection[str] = (),
) -> Iterator[Event]:
    """Run units through the graph. Ray must be connected.

    Args:
        units: the units of the pass.
        settings: sent to every worker.
        allocation: the actors, and what each asks of the cluster.
        recorder: sent to every actor.
        careful: whether a tokenizer has only one row in flight, so that a row that kills its actor
            takes no healthy rows along; for a pass with retried units.
        one_by_one: names of the units in which a sample that fails is given up alone.

    Yields:
        Events; each unit exactly once as `UnitDone` or `UnitFailed`.
    """
    context = _quiet_context()
    with DataContext.current(context), warnings.catch_warnings():
        # The only way to set `max_task_retries`; this package's range of Ray ends before 2.64.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        dataset = _dataset(units, settings, allocation, recorder, careful, one_by_one)
    collector = _Collector(units, settings, allocation.commit_cpus)
    yield from collector.collect(dataset)


def _quiet_context() -> DataContext:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # copying also sets the deprecated fields
        context = DataContext.get_current().copy()
    context.target_max_block_size = 1
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = _NO_PROGRESS_S
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # The collector reports lost blocks, with their reasons.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    return context


def _dataset(
    units: Sequence[WorkUnit],
    settings: WorkerSettings,
    allocation: Allocation,
    recorder: Recorder,
    careful: bool,
    one_by_one: Collection[str],
) -> Dataset:
    rows = [
        {"unit": to_json(unit).decode(), "one_by_one": unit.unit in one_by_one} for unit in units
    ]
    on_gpu = allocation.tokenize_gpus > 0
    calls = 1 if careful or not on_gpu else 2
    in_flight = 1 if careful else 4 if on_gpu else 2
    common: dict[str, Any] = {
        "fn_constructor_args": (settings, recorder),
        "batch_size": 1,
        "batch_format": "numpy",
        "max_task_retries": _TASK_RETRIES,
    }
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    dataset = dataset.map_batches(
        DecodeWorker,
        # One unit in flight: of two, one that kills its actor takes the other along.
        compute=ActorPoolStrategy(size=allocation.decode_actors, max_tasks_in_flight_per_actor=1),
        num_cpus=allocation.decode_cpus,
        **common,
    )
    return dataset.map_batches(
        TokenizeWorker,
        compute=ActorPoolStrategy(
            size=allocation.tokenize_actors,
            max_tasks_in_flight_per_actor=in_flight,
            max_concurrent_calls_per_actor=calls,
        ),
        num_cpus=allocation.tokenize_cpus,
        num_gpus=allocation.tokenize_gpus,
        **common,
    )


@dataclass(frozen=True, slots=True)
class _Described:
    """Which row a block holds: columns of `PAYLOAD_SCHEMA`, and what its header adds."""

    kind: str
    unit: str
    seq: int
    num_clips: int
    waiting_s: float
    busy_s: float
    num_rows: int = 0
    """Number of batch rows of the unit, in its closing row."""
    reason: str = ""
    """Why the unit was given up, in the row of an aborted unit."""


@ray.remote
class _Describer:
    def describe(self, refs: list[Any]) -> list[_Described | None]:
        """Return which rows the blocks hold; None for a lost block."""
        return [_describe(ref) for ref in refs]


def _describe(ref: Any) -> _Described | None:
    try:
        block: pa.Table = ray.get(ref)
    except ray.exceptions.RayError:
        return None
    [row] = block.drop_columns(["rows"]).to_pylist()
    header = row.pop("header")
    if row["kind"] == CLOSING:
        row["num_rows"] = len(from_json(Closing, header).digests)
    elif row["kind"] == ABORTED:
        row["reason"] = from_json(Aborted, header).reason
    return _Described(**row)


def commit_references(
    unit: WorkUnit, refs: list[Any], settings: WorkerSettings
) -> UnitRecord | str:
    """Commit a unit from references, closing row first; Ray does not fetch those of a list."""
    return commit_blocks(unit, (ray.get(ref) for ref in refs), settings)


@dataclass(slots=True)
class _OpenUnit:
    """The rows of a unit that have arrived."""

    closing: Any = None
    num_rows: int = -1
    refs: dict[int, Any] = field(default_factory=dict)

    def complete(self) -> list[Any] | None:
        """Return all references, the closing row's first; None if one is missing."""
        if self.closing is None or any(seq not in self.refs for seq in range(self.num_rows)):
            return None
        return [self.closing, *(self.refs[seq] for seq in range(self.num_rows))]


class _Collector:
    """Turns a stream of references into commits."""

    def __init__(
        self, units: Sequence[WorkUnit], settings: WorkerSettings, commit_cpus: float
    ) -> None:
        self._units: Mapping[str, WorkUnit] = {unit.unit: unit for unit in units}
        self._settings = ray.put(settings)
        self._open_units = settings.config.commit.open_units
        self._open: dict[str, _OpenUnit] = {unit.unit: _OpenUnit() for unit in units}
        """Units of which rows may still arrive."""
        self._rows_held: dict[str, int] = {}
        """Unit → number of its rows that arrived, of units that are not done."""
        self._describing: dict[Any, list[Any]] = {}
        self._committing: dict[Any, str] = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._describer = _Describer.options(  # type: ignore[attr-defined]
            num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
        ).remote()
        self._commit = ray.remote(commit_references).options(
            num_cpus=commit_cpus, max_retries=_COMMIT_RETRIES, scheduling_strategy="SPREAD"
        )

    def collect(self, dataset: Dataset) -> Iterator[Event]:
        """Yield events until every unit is done or failed."""
        with contextlib.closing(_References(dataset)) as source:
            yield from self._collect(source)

    def _collect(self, source: "_References") -> Iterator[Event]:
        while not (source.is_dry and not self._describing and not self._committing):
            if len(self._committing) < self._open_units and len(self._describing) < _DESCRIBES_OPEN:
                idle = not self._describing and not self._committing
                if refs := source.take(_DESCRIBE_AT_ONCE, _POLL_S if idle else 0):
                    self._describing[self._describer.describe.remote(refs)] = refs
            waiting = [*self._describing, *self._committing]
            ready = ray.wait(waiting, timeout=_POLL_S)[0] if waiting else []
            for future in ready:
                if future in self._describing:
                    yield from self._described(future)
                else:
                    yield self._committed(future)
            yield InFlight(len(self._rows_held), sum(self._rows_held.values()))
        reason = source.error or (
            "not all of its rows arrived: a process that worked on it died"
            f" {1 + _TASK_RETRIES} times, or a node was lost"
        )
        for unit in list(self._open):
            yield self._failed(unit, reason)

    def _described(self, future: Any) -> Iterator[Event]:
        refs = self._describing.pop(future)
        for ref, row in zip(refs, ray.get(future), strict=True):
            if row is None or row.unit not in self._open:
                continue  # a lost block, or a repeated row of a unit that is complete
            if row.kind == ABORTED:
                yield self._failed(row.unit, row.reason)
                continue
            unit = self._open[row.unit]
            if row.kind == BATCH and row.seq not in unit.refs:
                unit.refs[row.seq] = ref
                self._rows_held[row.unit] = len(unit.refs)
                yield BatchDone(row.num_clips, row.waiting_s, row.busy_s)
            elif row.kind == CLOSING and unit.closing is None:
                unit.closing, unit.num_rows = ref, row.num_rows
            if whole := unit.complete():
                del self._open[row.unit]
                task = self._commit.remote(self._units[row.unit], whole, self._settings)
                self._committing[task] = row.unit

    def _committed(self, future: Any) -> UnitDone | UnitFailed:
        unit = self._committing.pop(future)
        self._rows_held.pop(unit, None)
        try:
            outcome: UnitRecord | str = ray.get(future)
        except ray.exceptions.RayError as error:
            outcome = f"commit: {_ray_cause(error)}"
        if isinstance(outcome, UnitRecord):
            return UnitDone(outcome)
        return UnitFailed(unit, outcome)

    def _failed(self, unit: str, reason: str) -> UnitFailed:
        del self._open[unit]
        self._rows_held.pop(unit, None)
        return UnitFailed(unit, reason)


class _References:
    """References of the result's blocks. A thread pulls them, and waits while nobody takes them."""

    def __init__(self, dataset: Dataset) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=_DESCRIBE_AT_ONCE)
        self._end = object()
        self._closed = False
        self.is_dry = False
        self.error: str | None = None
        """The error that ended the execution early; None if none did."""
        self._thread = threading.Thread(target=self._pull, args=(dataset,), daemon=True)
        self._thread.start()

    def take(self, at_most: int, wait_s: float) -> list[Any]:
        """Return the references that are ready; wait only for the first."""
        taken: list[Any] = []
        while len(taken) < at_most and not self.is_dry:
            try:
                item = self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
            except queue.Empty:
                break
            wait_s = 0
            if item is self._end:
                self.is_dry = True
            else:
                taken.append(item)
        return taken

    def close(self) -> None:
        """Stop pulling, which ends an execution that still runs."""
        self._closed = True

    def _pull(self, dataset: Dataset) -> None:
        try:
            for bundle in dataset.iter_internal_ref_bundles():
                for entry in bundle.blocks:
                    self._put(entry.ref)
                if self._closed:
                    break
        except Exception as error:
            self.error = f"Ray Data: {_ray_cause(error)}"
        finally:
            self._put(self._end)

    def _put(self, item: Any) -> None:
        while not self._closed:
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_POLL_S)
                return


def _ray_cause(error: BaseException) -> str:
    """Return a Ray error in one line: it quotes a traceback, whose last line is the cause."""
    lines = [line.strip() for line in redacted(str(error)).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[-1:]])
