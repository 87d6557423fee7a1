"""Which units share a task, and what the workers make of a bundle."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.records import Counts
from pipeline.job.bundles import (
    MAX_SAMPLES,
    bundle_of,
    bundle_row,
    bundled,
    decoding,
    tokenizing,
)
from pipeline.job.workers import RayBatch
from pipeline.records import ListRows, LooseFile, WorkUnit, from_json
from pipeline.stages.messages import (
    Aborted,
    Closing,
    decoded_row,
    payload_row,
    read_decoded_row,
)
from pipeline.stages.packing import unpack_decoded, unpack_payloads
from tests.pipeline.job.metrics.test_metrics import worker_settings


def rows_unit(name: str, rows: int) -> WorkUnit:
    return WorkUnit(unit=name, rows=ListRows(uri="/l.csv", start=0, stop=rows))


def as_batch(row: dict[str, str]) -> RayBatch:
    """Return a row as Ray Data hands it to a worker."""
    return {name: np.array([value], dtype=object) for name, value in row.items()}


@given(
    given_units=st.lists(st.tuples(st.integers(0, MAX_SAMPLES + 3), st.booleans()), max_size=400),
    few=st.integers(0, 20),
    actors=st.integers(1, 30),
)
def test_bundles_are_small_and_hold_every_unit_once(
    given_units: list[tuple[int, bool]], few: int, actors: int
) -> None:
    """Also many units of one sample, of which only few run alone: these make full bundles."""
    for drawn in (given_units, [(1, n < few) for n in range(40 * actors)]):
        units = [rows_unit(f"u-{n}", size) for n, (size, _) in enumerate(drawn)]
        names = {f"u-{n}" for n, (_, alone) in enumerate(drawn) if alone}
        bundles = list(bundled(units, names, actors))
        assert [unit for bundle in bundles for unit in bundle] == units
        several = [bundle for bundle in bundles if len(bundle) > 1]
        assert all(sum(u.rows.stop for u in bundle if u.rows) <= MAX_SAMPLES for bundle in several)
        assert all(len(bundle) <= MAX_SAMPLES for bundle in several)
        assert not any(unit.unit in names for bundle in several for unit in bundle)
        # No actor waits for the bundles of the others.
        assert not several or len(bundles) >= 16 * actors
    assert several


@pytest.mark.parametrize(
    ("unit", "most"),
    [
        (rows_unit("u", 1), 16),
        (rows_unit("u", 5), 3),
        (rows_unit("u", 128), 1),
        (WorkUnit(unit="u", files=(LooseFile(key="k", uri="/k.mp4"),)), 16),
        (WorkUnit(unit="u", tar_uri="/t.tar"), 1),
    ],
)
def test_only_units_of_few_samples_share_a_task(unit: WorkUnit, most: int) -> None:
    bundles = list(bundled([unit] * 480, (), 1))
    assert {len(bundle) for bundle in bundles} == {most}


def test_a_bundle_travels() -> None:
    units = (rows_unit("é-1", 1), rows_unit("u-2", 2))
    one, other = bundle_of(as_batch(bundle_row(units, {"u-2"})))
    assert [from_json(WorkUnit, str(row["unit"][0])) for row in (one, other)] == [*units]
    assert [bool(row["one_by_one"][0]) for row in (one, other)] == [False, True]


class Decode:
    """Gives the second unit up, after nothing of it was decoded."""

    def __init__(self, *_: Any) -> None: ...

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        unit = from_json(WorkUnit, str(batch["unit"][0])).unit
        if unit == "u-1":
            yield decoded_row(Aborted(unit=unit, reason="decode: x"))
        else:
            yield decoded_row(
                Closing(unit=unit, digests=(), counts=Counts(samples_read=0, clips_seen=0))
            )


class Tokenize:
    def __call__(self, batch: RayBatch) -> pa.Table:
        record = read_decoded_row(batch)
        assert isinstance(record, Closing | Aborted)
        return payload_row(record)


def test_a_unit_that_is_given_up_takes_no_other_one_of_its_bundle_along() -> None:
    worker = decoding(Decode)(worker_settings())
    units = [rows_unit(f"u-{n}", 1) for n in range(3)]
    [row] = worker(as_batch(bundle_row((*units,), ())))
    block = tokenizing(Tokenize)()(row)
    assert block.num_rows == 1
    rows = unpack_payloads(block).select(["unit", "kind"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("u-0", "closing"),
        ("u-1", "aborted"),
        ("u-2", "closing"),
    ]


def test_the_rows_of_a_unit_alone_are_not_packed() -> None:
    class Two(Decode):
        def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
            yield from super().__call__(batch)
            yield from super().__call__(batch)

    worker = decoding(Two)(worker_settings())
    rows = list(worker(as_batch(bundle_row((rows_unit("u-0", 1),), ()))))
    assert [len(list(unpack_decoded(row))) for row in rows] == [1, 1]
