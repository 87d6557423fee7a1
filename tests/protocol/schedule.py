"""One random schedule: actors come and go, then one driver ends the job, and all is looked at."""

import random
import types
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest.mock import patch

import fsspec
import pyarrow.parquet as pq

import pipeline.dataset.log.commit_log
import pipeline.dataset.log.forgotten
import pipeline.dataset.log.log_records
import pipeline.job.log_buffer
import pipeline.operations.forget.forget
import pipeline.operations.publish.publish
import pipeline.operations.vacuum
import pipeline.storage.store
from pipeline.errors import PipelineError
from pipeline.operations.vacuum import vacuum
from pipeline.reading.snapshot import open_snapshot
from pipeline.records import unit_sources
from tests.protocol import world as worlds
from tests.protocol.actors import (
    STORE,
    ModelTable,
    all_clips,
    bodies,
    clip_ids,
    clip_of,
    driver,
    forgetter,
    plan_of,
)
from tests.protocol.breakages import BREAKAGES
from tests.protocol.remembered import Remembered
from tests.protocol.world import HOUR_S, Actor, MemoryStore, World, name_of

_KINDS: Final = {
    "driver": 6,
    "vacuum": 5,
    "retry": 4,
    "compact": 3,
    "publish": 3,
    "forget": 2,
    "checkpoint": 1,
    "reader": 2,
}
"""Actors, and how often each is drawn."""


@contextmanager
def model(breakage: str | None = None) -> Iterator[None]:
    """Put the pipeline's code on the model's clock, threads and draws, and break it on request."""
    clock = types.SimpleNamespace(
        time=lambda: worlds.current.clock, monotonic=lambda: worlds.current.clock, sleep=_sleep
    )
    draws = types.SimpleNamespace(
        uniform=lambda low, high: worlds.current.names.uniform(low, high),
        random=lambda: worlds.current.names.random(),
    )
    files = MemoryStore()
    with ExitStack() as patches:
        for module in (
            pipeline.dataset.log.commit_log,
            pipeline.job.log_buffer,
            pipeline.operations.vacuum,
            pipeline.storage.store,
        ):
            patches.enter_context(patch.object(module, "time", clock))
        for module in (pipeline.dataset.log.commit_log, pipeline.storage.store):
            patches.enter_context(patch.object(module, "random", draws))
        patches.enter_context(patch.object(uuid, "uuid4", _name))
        for module in (
            pipeline.dataset.log.log_records,
            pipeline.dataset.log.forgotten,
            pipeline.operations.forget.forget,
        ):
            patches.enter_context(patch.object(module, "ThreadPoolExecutor", _InTurn))
        # Most of the time of a step would go into finding the file system.
        patches.enter_context(
            patch.object(fsspec.core, "url_to_fs", lambda uri, **options: (files, name_of(uri)))
        )
        patches.enter_context(patch.object(pq, "ParquetFile", Remembered))
        patches.enter_context(
            patch.object(
                pq, "read_table", lambda file, columns=None: Remembered(file).read(columns)
            )
        )
        patches.enter_context(
            patch.object(
                pipeline.operations.publish.publish,
                "open_table",
                lambda name, store, schema: ModelTable(store),
            )
        )
        if breakage is not None:
            patches.enter_context(BREAKAGES[breakage]())
        yield


def play(seed: int) -> World:
    """Play one schedule in `model()`; `laws.broken` of the result says what went wrong."""
    draw = random.Random(f"actors {seed}")
    world = World(seed, rate=draw.choice([0.0, 0.01, 0.03, 0.1]))
    world.vacuum_hours = draw.choice([24.0, 0.0])
    left = draw.randint(10, 60)

    def spawn() -> Actor | None:
        nonlocal left
        left -= 1
        kind = draw.choices(list(_KINDS), list(_KINDS.values()))[0]
        own = random.Random(draw.random())
        name = f"{kind} {left}"
        nap_in = draw.randint(1, 12) if world.rate and draw.random() < 0.4 else 0
        return _actor(world, name, bodies(world, own)[kind], nap_in) if left >= 0 else None

    world.run(spawn, at_once=draw.randint(2, 12))
    if not world.laws.broken:
        _peace(world)
    return world


def _actor(world: World, name: str, act: Callable[[], object], nap_in: int = 0) -> Actor:
    def body() -> None:
        try:
            act()
            world.ends[f"{name.partition(' ')[0]} done"] += 1
        except PipelineError as error:
            world.ends[f"{name.partition(' ')[0]} {type(error).__name__}"] += 1
        except Exception as error:
            world.laws.broken = world.laws.broken or f"{name}: {error!r}"

    return Actor(name, body, nap_in)


def _peace(world: World) -> None:
    """End the job without faults; every row counts once, and vacuum leaves what is named."""
    world.rate = 0.0
    plan = plan_of(tars=3)
    found: list[str] = []

    def read() -> None:
        units = open_snapshot(STORE.uri).manifest.units()
        found.extend(clip_ids((unit.unit, part) for unit in units for part in unit.parts))

    def clean() -> None:
        world.clock += 100 * HOUR_S
        vacuum(STORE, delete=True)

    own = random.Random(0)
    verbs = bodies(world, own)
    acts = [
        lambda: driver(world, own, plan, passes=10),
        *[lambda: forgetter(world, sorted(world.laws.asked_to_forget))]
        * bool(world.laws.asked_to_forget),
        *map(verbs.get, ("compact", "publish")),
        clean,
        read,
    ]
    waiting = [_actor(world, f"last {n}", act) for n, act in enumerate(acts)]
    world.run(lambda: waiting.pop(0) if waiting else None, at_once=1)
    laws = world.laws
    if laws.broken:
        return
    gone = {clip_of(key) for key in laws.asked_to_forget}
    wanted = [clip_of(source) for unit in plan for source in unit_sources(unit)]
    wanted = [clip for clip in wanted if clip not in gone]
    held = {clip for path in laws.named() if path.startswith("data/") for clip in all_clips(path)}
    parts = {path.removeprefix("root/") for path in world.files if "root/data/" in path}
    left = set() if laws.announced else parts - laws.named() - laws.table
    if laws.reopened:
        laws.broken = f"still reopened: {sorted(laws.reopened)}"
    elif sorted(found) != sorted(wanted):
        laws.broken = f"{sorted(found)} count, not {sorted(wanted)}"
    elif not gone.isdisjoint(held):
        laws.broken = f"{sorted(gone & held)} are forgotten and in a file"
    elif left:
        laws.broken = f"vacuum leaves {sorted(left)}"


def _name() -> uuid.UUID:
    return uuid.UUID(int=worlds.current.names.getrandbits(128), version=4)


def _sleep(seconds: float) -> None:
    worlds.current.clock += seconds


class _InTurn:
    """A pool that works at once, in the thread of the actor."""

    def __init__(self, threads: int) -> None:
        pass

    def __enter__(self) -> "_InTurn":
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def map(self, act: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        return map(act, *arguments)

    def submit(self, act: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(act(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


def search(
    first: int, *, steps: int, schedules: int = 10**9
) -> tuple[int, Counter[str], World | None]:
    """Play schedules until a number of steps are done or a law is broken.

    Returns:
        Number of schedules, counts (steps, faults, ends of actors), and the broken world if any.
    """
    counts: Counter[str] = Counter()
    for played in range(schedules):
        if counts["steps"] >= steps:
            return played, counts, None
        world = play(first + played)
        counts += Counter({"steps": world.steps, **world.faults, **world.ends})
        if world.laws.broken:
            return played + 1, counts, world
    return schedules, counts, None
