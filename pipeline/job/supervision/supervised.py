"""Actors that report whether they run: a worker that cannot start waits and tries again.

Ray Data never replaces an actor that ran, was restarted, and then raises in its constructor. And
after some failed constructors it ends the pass, although other nodes are sound. A supervised
worker does not raise: its process ends, and Ray starts the actor again, on any node with room.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import ray

from pipeline.errors import one_line
from pipeline.job.bundles import bundle_of
from pipeline.job.metrics.metrics import DECODE, Recorder
from pipeline.job.nodes import this_node
from pipeline.job.supervision.health import BEAT_S
from pipeline.job.workers import RayBatch, WorkerSettings
from pipeline.records import WorkUnit, from_json

_MAX_PAUSE_S: Final = 30.0
"""Maximum seconds between two starts of an actor."""

_log = logging.getLogger(__name__)


def supervised(worker: type[Any], stage: str) -> type[Any]:
    """Return a subclass of a worker whose constructor also takes the desk that it reports to.

    The desk is a handle of an actor with the methods of `pipeline.job.supervision.health.Health`.
    """

    class Supervised(worker):  # type: ignore[misc]
        def __init__(self, settings: WorkerSettings, recorder: Recorder, desk: Any) -> None:
            actor = ray.get_runtime_context().get_actor_id()
            try:
                super().__init__(settings, recorder)
            except Exception as error:
                _log.warning("an actor of the stage %s does not start", stage, exc_info=error)
                # The desk dies with its pass. Then nobody waits for this actor, and it raises.
                failures = ray.get(desk.failed.remote(stage, actor, this_node(), one_line(error)))
                time.sleep(min(_MAX_PAUSE_S, 2.0 ** (failures - 1)))
                os._exit(1)
            self.desk = desk
            threading.Thread(target=_beat, args=(desk, stage, actor), daemon=True).start()

    class Decoding(Supervised):
        def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
            yield from super().__call__(batch)
            units = (from_json(WorkUnit, str(row["unit"][0])) for row in bundle_of(batch))
            self.desk.decoded.remote(*(unit.unit for unit in units))

    made = Decoding if stage == DECODE else Supervised
    made.__name__ = worker.__name__  # Ray shows it in the names of processes
    return made


def _beat(desk: Any, stage: str, actor: str) -> None:
    with contextlib.suppress(ray.exceptions.RayError):
        while True:
            ray.get(desk.beat.remote(stage, actor))
            time.sleep(BEAT_S)
