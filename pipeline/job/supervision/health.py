"""Which actors run and which do not start, and what the job says and does about it.

Actors report to `Health`, which runs in an actor beside the driver. The driver asks it for a
`HealthReport` every second and gives it to a `StallWatch`. No process waits for another one here.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pipeline.errors import StageStalled
from pipeline.formatting import counted, format_duration
from pipeline.job.nodes import Node

BEAT_S: Final = 10.0
"""Seconds between the signs of life of an actor."""

SILENT_S: Final = 30.0
"""Seconds without a sign of life after which an actor is not counted as running."""

SAY_AFTER_S: Final = 25.0
"""Seconds without a running actor after which the job says what it waits for."""

SAY_EVERY_S: Final = 60.0

STARTS: Final = 4
"""Failed starts of every actor with which a stage that never ran ends the job."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A node on which actors of a stage do not start."""

    stage: str
    node: str
    times: int
    error: str
    """The last error."""

    def __str__(self) -> str:
        times = "" if self.times == 1 else f" ({self.times} times)"
        return f"node {self.node}: {self.stage} does not start{times}: {self.error}"


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What actors have reported so far in a pass."""

    running: Mapping[str, int]
    """Stage → number of actors that run."""
    failed_starts: Mapping[str, Sequence[int]]
    """Stage → for each actor that never ran or runs no more, its failed starts in a row."""
    troubles: Sequence[Trouble]
    decoded: int
    """Number of units that are decoded or given up."""


class Health:
    """Collects the reports of the actors of one pass; safe for several threads.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._beats: dict[tuple[str, str], float] = {}
        self._failed: Counter[tuple[str, str]] = Counter()
        self._troubles: dict[tuple[str, str], Trouble] = {}
        self._decoded: set[str] = set()

    def beat(self, stage: str, actor: str) -> None:
        """Note that an actor runs."""
        with self._lock:
            self._beats[stage, actor] = self._clock()
            self._failed.pop((stage, actor), None)

    def failed(self, stage: str, actor: str, node: str, error: str) -> int:
        """Note that an actor did not start; return how often in a row it has not."""
        with self._lock:
            self._beats.pop((stage, actor), None)
            self._failed[stage, actor] += 1
            known = self._troubles.get((stage, node), Trouble(stage, node, 0, error))
            self._troubles[stage, node] = replace(known, times=known.times + 1, error=error)
            return self._failed[stage, actor]

    def decoded(self, *units: str) -> None:
        """Note that units need no decode actor any more."""
        with self._lock:
            self._decoded.update(units)

    def report(self) -> HealthReport:
        """Return what is known."""
        with self._lock:
            since = self._clock() - SILENT_S
            failed: dict[str, list[int]] = {}
            for (stage, _), times in self._failed.items():
                failed.setdefault(stage, []).append(times)
            return HealthReport(
                running=Counter(stage for (stage, _), at in self._beats.items() if at >= since),
                failed_starts=failed,
                troubles=tuple(self._troubles.values()),
                decoded=len(self._decoded),
            )


@dataclass(frozen=True, slots=True)
class ActorPool:
    """The actors of one stage, and what one of them asks for."""

    stage: str
    actors: int
    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{counted(self.actors, 'actor')} (CPUs: {self.cpus:g}, GPUs: {self.gpus:g} each)"


class StallWatch:
    """Decides what a job says about stages without a running actor, and when it ends.

    Args:
        max_wait_s: seconds without a running actor after which a stage that ran ends the job.
        clock: returns seconds.

    Attributes:
        troubles: (stage, node) → what the job knows of a node on which actors do not start.
    """

    def __init__(self, max_wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.troubles: dict[tuple[str, str], Trouble] = {}
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._ran: set[str] = set()
        self._before: dict[tuple[str, str], int] = {}
        """Failed starts in earlier passes."""
        self._since: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def begin(self, pools: Sequence[ActorPool]) -> None:
        """Begin a pass."""
        self._pools = pools
        self._before = {key: trouble.times for key, trouble in self.troubles.items()}
        self._said = {}
        self.progress()

    def progress(self) -> None:
        """Note that a tokenized row has arrived: no stage has been waited for until now."""
        self._since = {pool.stage: self._clock() for pool in self._pools}

    def check(
        self,
        report: HealthReport,
        needed: Callable[[str], bool],
        nodes: Sequence[Node],
        free: Callable[[], str],
    ) -> list[str]:
        """Return lines for the user.

        Args:
            report: the newest report of the pass.
            needed: whether a stage has work left.
            nodes: the nodes that are alive.
            free: says what the cluster has free.

        Raises:
            StageStalled: a stage has had no running actor for too long.
        """
        lines = [*self._new_troubles(report)]
        for pool in self._pools:
            stage = pool.stage
            if report.running.get(stage) or not needed(stage):
                if report.running.get(stage):
                    self._ran.add(stage)
                if self._said.pop(stage, None) is not None:
                    lines.append(f"continues  {stage}: an actor runs")
                self._since[stage] = self._clock()
                continue
            waited = self._clock() - self._since[stage]
            why = self._why(pool, free)
            failed = report.failed_starts.get(stage, ())
            never = stage not in self._ran
            hopeless = len(failed) >= pool.actors and min(failed) >= STARTS
            if never and hopeless and self._all_failed(pool, nodes):
                raise StageStalled(f"{stage}: no actor starts: {why}")
            if waited > self._max_wait_s and (failed or not never):
                raise StageStalled(
                    f"{stage}: no actor has run for {format_duration(waited)}, and max_wait_s ="
                    f" {self._max_wait_s:g}: {why}"
                )
            if waited >= SAY_AFTER_S and self._clock() - self._said.get(stage, -1e9) >= SAY_EVERY_S:
                self._said[stage] = self._clock()
                state = "has started" if never else "has run"
                time_s = format_duration(waited)
                lines.append(f"waiting    {stage}: no actor {state} for {time_s}: {why}")
        return lines

    def _new_troubles(self, report: HealthReport) -> list[str]:
        lines = []
        for trouble in report.troubles:
            key = trouble.stage, trouble.node
            if key not in self.troubles:
                lines.append(f"trouble    {trouble}")
            times = self._before.get(key, 0) + trouble.times
            self.troubles[key] = replace(trouble, times=times)
        return lines

    def _all_failed(self, pool: ActorPool, nodes: Sequence[Node]) -> bool:
        return all(
            (pool.stage, node.name) in self.troubles
            for node in nodes
            if node.cpus >= pool.cpus and node.gpus >= pool.gpus
        )

    def _why(self, pool: ActorPool, free: Callable[[], str]) -> str:
        known = [str(trouble) for trouble in self.troubles.values() if trouble.stage == pool.stage]
        return (
            "; ".join(known[-3:])
            or f"it asks for {pool}; free are {free()}, without those of actors that start"
        )
