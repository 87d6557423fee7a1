"""Bundles: small units that share a task of Ray, whose own cost is that of some small units.

    units ─► bundled ─► one decode task for each bundle ─► packed rows ─► tokenize ─► …

The workers see one unit and one row at a time. Units stay what is counted, retried and committed.
A process that dies takes its bundle along, so a unit that failed runs alone in its next attempt.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa

from pipeline.dataset.records import Part
from pipeline.job.workers import RayBatch, WorkerSettings
from pipeline.records import WorkUnit, from_json, to_json
from pipeline.stages.packing import pack_payloads, packed_runs, unpack_decoded

Bundle = tuple[WorkUnit, ...]

MAX_SAMPLES: Final = 16
"""Maximum number of samples in a bundle of several units: what is lost if its process dies."""

_TASKS_PER_ACTOR: Final = 16
"""Minimum number of decode tasks of an actor, so that all actors end at about the same time."""


def bundled(
    units: Sequence[WorkUnit], alone: Collection[str], decode_actors: int
) -> Iterator[Bundle]:
    """Yield the units in bundles, in their order.

    Args:
        units: the units.
        alone: names of units that get a bundle of their own.
        decode_actors: number of actors that share the bundles.
    """
    most = max(1, min(MAX_SAMPLES, len(units) // (_TASKS_PER_ACTOR * decode_actors)))
    bundle: list[WorkUnit] = []
    room = most
    for unit in units:
        samples = most if unit.unit in alone else max(1, _samples(unit))
        if bundle and samples > room:
            yield tuple(bundle)
            bundle, room = [], most
        bundle.append(unit)
        room -= samples
    if bundle:
        yield tuple(bundle)


def _samples(unit: WorkUnit) -> int:
    """Return the number of samples of a unit; a tar can hold any number."""
    if unit.rows is not None:
        return unit.rows.stop - unit.rows.start
    if unit.parent is not None:
        return sum(part.rows for part in from_json(tuple[Part, ...], unit.parent.parts))
    return len(unit.files) or MAX_SAMPLES


def bundle_row(bundle: Bundle, one_by_one: Collection[str]) -> dict[str, str]:
    """Return a bundle as a row for Ray Data.

    Args:
        bundle: the units.
        one_by_one: names of the units in which a sample that fails is given up alone.
    """
    units = [[to_json(unit).decode(), unit.unit in one_by_one] for unit in bundle]
    return {"units": json.dumps(units)}


def bundle_of(batch: RayBatch) -> list[RayBatch]:
    """Return the units of a row of `bundle_row` as decode workers take them, one by one."""
    return [
        {"unit": np.array([unit], dtype=object), "one_by_one": np.array([one_by_one])}
        for unit, one_by_one in json.loads(str(batch["units"][0]))
    ]


def decoding(worker: type[Any]) -> type[Any]:
    """Return a subclass of a decode worker that takes bundles and packs their rows."""

    class Bundled(worker):  # type: ignore[misc]
        def __init__(self, settings: WorkerSettings, *others: Any) -> None:
            super().__init__(settings, *others)
            self._row_clips = settings.config.row_clips

        def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
            units = bundle_of(batch)
            rows = (row for unit in units for row in super(Bundled, self).__call__(unit))
            yield from rows if len(units) == 1 else packed_runs(rows, self._row_clips)

    Bundled.__name__ = worker.__name__
    return Bundled


def tokenizing(worker: type[Any]) -> type[Any]:
    """Return a subclass of a tokenize worker that takes and returns packed rows."""

    class Bundled(worker):  # type: ignore[misc]
        def __call__(self, batch: RayBatch) -> pa.Table:
            call = super().__call__
            return pack_payloads([call(row) for row in unpack_decoded(batch)])

    Bundled.__name__ = worker.__name__
    return Bundled
