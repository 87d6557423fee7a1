"""From blocks to commits: the driver's side of a pass.

The driver holds references only. The desk (`pipeline.job.supervision.desk`) reads which unit each
block belongs to. When all rows of a unit have arrived, a task gets the references and writes the
parts. Units whose rows are all packed are small: one task commits several of them. The processes of
commits import this module, so it does not import Ray Data.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import ray

from pipeline.dataset.records import UnitRecord
from pipeline.job.metrics.metrics import DECODE, TOKENIZE
from pipeline.job.nodes import alive_nodes, free_resources
from pipeline.job.references import References, ray_cause
from pipeline.job.supervision.desk import Described
from pipeline.job.supervision.health import HealthReport, StallWatch
from pipeline.job.supervision.node_history import NodeHistory
from pipeline.job.workers import OutputUnseen, WorkerSettings, commit_blocks
from pipeline.records import WorkUnit
from pipeline.stages.messages import ABORTED, BATCH, CLOSING, Aborted
from pipeline.stages.packing import unpack_payloads

TASK_RETRIES: Final = 2
"""A row or unit that kills its actor is tried 1 + 2 times; Ray's own default never ends."""


_DESCRIBE_AT_ONCE: Final = 20


_DESCRIBES_OPEN: Final = 2


_COMMIT_RETRIES: Final = 5


_COMMIT_AT_ONCE: Final = 32
"""Maximum number of small units that one task commits."""


_COMMIT_THREADS: Final = 8
"""Number of small units that a task writes at once, since most of a small write is waiting."""


_SMALL_COMMITS: Final = 2
"""Maximum number of tasks that commit small units; each is a process, and takes a second to start.
Small units that are complete wait for one of them."""


_POLL_S: Final = 0.2


_HEALTH_EVERY_S: Final = 1.0


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
class Said:
    """Something about the cluster that the user must know."""

    line: str


@dataclass(frozen=True, slots=True)
class InFlight:
    """What is under way; sent a few times a second, so that the driver can check its clock."""

    open_units: int
    """Number of units of which rows have arrived, and which are neither done nor failed."""
    rows_held: int
    """Number of tokenized rows of these units."""


Event = BatchDone | UnitDone | UnitFailed | Said | InFlight


def not_on(names: Collection[str]) -> dict[str, Any]:
    """Return options of Ray with which an actor or task runs on none of these nodes."""
    ids = [node.id for node in alive_nodes() if node.name in names] if names else []
    return {"label_selector": {"ray.io/node-id": f"!in({','.join(ids)})"}} if ids else {}


Place = tuple[Any, int | None]
"""Where a payload row is: the reference of its block, and its number if the block is packed."""

Outcome = UnitRecord | Aborted | OutputUnseen


def commit_references(
    units: Sequence[WorkUnit], places: Sequence[Sequence[Place]], settings: WorkerSettings
) -> list[Outcome]:
    """Commit units from references, each closing row first; Ray does not fetch those of a list."""
    packed: dict[Any, pa.Table] = {}

    def block(place: Place) -> pa.Table:
        ref, number = place
        if number is None:
            return ray.get(ref)
        if ref not in packed:
            packed[ref] = unpack_payloads(ray.get(ref))
        return packed[ref].slice(number, 1)

    def commit(unit: WorkUnit, places: Sequence[Place]) -> Outcome:
        return commit_blocks(unit, map(block, places), settings)

    if len(units) == 1:
        return [commit(units[0], places[0])]
    with ThreadPoolExecutor(_COMMIT_THREADS) as pool:
        return list(pool.map(commit, units, places))


def _imported() -> None:
    """Do nothing: the process that runs this has imported what commits need."""


@dataclass(slots=True)
class _OpenUnit:
    """The rows of a unit that have arrived."""

    closing: Place | None = None
    num_rows: int = -1
    rows: dict[int, Place] = field(default_factory=dict)

    def complete(self) -> list[Place] | None:
        """Return the places of all rows, the closing row's first; None if one is missing."""
        if self.closing is None or any(seq not in self.rows for seq in range(self.num_rows)):
            return None
        return [self.closing, *(self.rows[seq] for seq in range(self.num_rows))]


def _is_small(whole: Sequence[Place]) -> bool:
    """Return whether all rows of a unit are packed with those of others."""
    return all(number is not None for _, number in whole)


class Collector:
    """Turns a stream of references into commits."""

    def __init__(
        self,
        units: Sequence[WorkUnit],
        settings: WorkerSettings,
        commit: Callable[..., Any],
        commit_cpus: float,
        desk: Any,
        watch: StallWatch,
        history: NodeHistory,
    ) -> None:
        self._units: Mapping[str, WorkUnit] = {unit.unit: unit for unit in units}
        self._settings = ray.put(settings)
        self._open_units = settings.config.commit.open_units
        self._open: dict[str, _OpenUnit] = {unit.unit: _OpenUnit() for unit in units}
        """Units of which rows may still arrive."""
        self._rows_held: dict[str, int] = {}
        """Unit → number of its rows that arrived, of units that are not done."""
        self._describing: dict[Any, list[Any]] = {}
        self._committing: dict[Any, dict[str, list[Place]]] = {}
        """Running task → its units, and the places of their rows."""
        self._small: dict[str, list[Place]] = {}
        """Small units that are complete and wait for a task, and the places of their rows."""
        self._desk = desk
        self._watch = watch
        self._history = history
        self._asked: Any = None
        """Question for the health of the actors that is not answered yet."""
        self._ask_at = 0.0
        self._commits_ready = False
        """Whether a process imports what commits need, while the first row is tokenized."""
        self._commit = ray.remote(commit)
        self._commit_options = {
            "num_cpus": commit_cpus,
            "max_retries": _COMMIT_RETRIES,
            "scheduling_strategy": "SPREAD",
        }

    def collect(self, execute: Callable[[], Iterator[Any]]) -> Iterator[Event]:
        """Yield events until every unit is done or failed.

        Args:
            execute: runs the dataset, and yields bundles of references; called in a thread.
        """
        with contextlib.closing(References(execute)) as source:
            yield from self._collect(source)

    def _collect(self, source: References) -> Iterator[Event]:
        while not (source.is_dry and not self._describing and not self._committing):
            if (
                len(self._committing) < self._open_units
                and len(self._describing) < _DESCRIBES_OPEN
                and len(self._small) < _COMMIT_AT_ONCE
            ):
                idle = not self._describing and not self._committing
                if refs := source.take(_DESCRIBE_AT_ONCE, _POLL_S if idle else 0):
                    self._describing[self._desk.describe.remote(refs)] = refs
            waiting = [*self._describing, *self._committing]
            ready = ray.wait(waiting, timeout=_POLL_S)[0] if waiting else []
            for future in ready:
                if future in self._describing:
                    yield from self._described(future)
                else:
                    yield from self._committed(future)
            self._commit_small()
            yield from self._health(source)
            yield InFlight(len(self._rows_held), sum(self._rows_held.values()))
        reason = source.error or (
            "not all of its rows arrived: a process that worked on it died"
            f" {1 + TASK_RETRIES} times, or a node was lost"
        )
        for unit in list(self._open):
            yield self._failed(unit, reason)

    def _described(self, future: Any) -> Iterator[Event]:
        for ref, rows in zip(self._describing.pop(future), ray.get(future), strict=True):
            for number, row in enumerate(rows):
                place = ref, None if len(rows) == 1 else number
                yield from self._arrived(row, place)
                if row.unit in self._open and (whole := self._open[row.unit].complete()):
                    del self._open[row.unit]
                    if _is_small(whole):
                        self._small[row.unit] = whole
                    else:
                        self._start_commit({row.unit: whole})

    def _arrived(self, row: Described, place: Place) -> Iterator[Event]:
        if row.unit not in self._open:
            return  # a repeated row of a unit that is complete
        if row.kind == ABORTED or not self._credible(row):
            yield from self._gave_up(row)
            return
        unit = self._open[row.unit]
        if row.kind == BATCH and row.seq not in unit.rows:
            unit.rows[row.seq] = place
            self._rows_held[row.unit] = len(unit.rows)
            self._watch.progress()
            yield BatchDone(row.num_clips, row.waiting_s, row.busy_s)
        elif row.kind == CLOSING and unit.closing is None:
            unit.closing, unit.num_rows = place, row.num_rows

    def _credible(self, row: Described) -> bool:
        """Note that a unit was decoded; return False if its files may be away on one node only."""
        if row.unreadable:
            return self._history.believes(row.unit, row.node, len(alive_nodes()))
        if row.kind == CLOSING:
            self._history.decoded(row.node)
        return True

    def _gave_up(self, row: Described) -> Iterator[Event]:
        reason = row.reason or "decode: no file of the unit can be read there"
        if reason.startswith(DECODE):
            self._history.gave_up(row.node, reason)
        yield self._failed(row.unit, _located(reason, row.node))

    def _commit_small(self) -> None:
        running = sum(all(map(_is_small, whole.values())) for whole in self._committing.values())
        while self._small and running < _SMALL_COMMITS:
            some = [*self._small][:_COMMIT_AT_ONCE]
            self._start_commit({unit: self._small.pop(unit) for unit in some})
            running += 1

    def _start_commit(self, whole: dict[str, list[Place]]) -> None:
        options = self._commit_options | not_on(self._history.blind)
        units = [self._units[unit] for unit in whole]
        places = list(whole.values())
        task = self._commit.options(**options).remote(units, places, self._settings)
        self._committing[task] = whole

    def _committed(self, future: Any) -> Iterator[Event]:
        whole = self._committing.pop(future)
        try:
            outcomes: list[Outcome] = ray.get(future)
        except ray.exceptions.RayError as error:
            reason = f"commit: {ray_cause(error)}"
            outcomes = [Aborted(unit=unit, reason=reason) for unit in whole]
        again: dict[str, list[Place]] = {}
        for unit, outcome in zip(whole, outcomes, strict=True):
            if isinstance(outcome, OutputUnseen):
                if outcome.node not in self._history.blind:
                    self._history.blind.add(outcome.node)
                    node = outcome.node
                    yield Said(
                        f"trouble    node {node} does not see the output: it commits no unit"
                    )
                if any(node.name not in self._history.blind for node in alive_nodes()):
                    again[unit] = whole[unit]
                    continue
                reason = "commit: no node sees the output; mount it on every node"
                outcome = Aborted(unit=unit, reason=reason)
            self._rows_held.pop(unit, None)
            if isinstance(outcome, UnitRecord):
                yield UnitDone(outcome)
            else:
                yield UnitFailed(unit, _located(outcome.reason, outcome.node))
        if again:
            self._start_commit(again)

    def _health(self, source: References) -> Iterator[Said]:
        """Ask for the health of the actors now and then; say what is wrong with them."""
        if self._asked is None:
            if time.monotonic() >= self._ask_at:
                self._asked = self._desk.report.remote()
            return
        if not ray.wait([self._asked], timeout=0)[0]:
            return
        report: HealthReport = ray.get(self._asked)
        self._asked, self._ask_at = None, time.monotonic() + _HEALTH_EVERY_S
        if report.running.get(TOKENIZE) and not self._commits_ready:
            self._commits_ready = True
            ray.remote(num_cpus=0, max_retries=0)(_imported).remote()

        def needed(stage: str) -> bool:
            if source.is_dry or self._committing:
                return False
            return stage != DECODE or report.decoded < len(self._units)

        for line in self._watch.check(report, needed, alive_nodes(), free_resources):
            yield Said(line)

    def _failed(self, unit: str, reason: str) -> UnitFailed:
        del self._open[unit]
        self._rows_held.pop(unit, None)
        return UnitFailed(unit, reason)


def _located(reason: str, node: str) -> str:
    """Return a reason with the node, if there are several."""
    return f"{reason} (on node {node})" if node and len(alive_nodes()) > 1 else reason
