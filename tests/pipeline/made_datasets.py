"""Small datasets, made by the commit's own code: sound ones, and ways to damage them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import write_manifest
from pipeline.dataset.metadata import Dataset, new_dataset, open_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import UnitRecord
from pipeline.stages.commit import commit_unit
from pipeline.storage.store import Store
from pipeline.tokenizers.facts import vidtok_facts
from tests.pipeline.units import FSQ, KL, LEVELS, SCHEMA, Delivery, deliver
from vidtok.presets import named_config


def _facts(model: str, **changes: Any) -> dict[str, Any]:
    return vidtok_facts(replace(named_config(model), **changes)).to_dict()


IDENTITY: dict[str, Any] = {
    "preprocessing": 1,
    "clip": {
        "frames": 5,
        "height": 16,
        "width": 16,
        "fps": 8.0,
        "short": "drop",
        "resize": "uint8",
    },
    "tokenizers": {
        "fsq": {"model": FSQ.model, "facts": _facts(FSQ.model), "weights": "a" * 32},
        "kl": {"model": KL.model, "facts": _facts(KL.model, z_channels=4), "weights": "b" * 32},
    },
}
DATASET = new_dataset((FSQ, KL), IDENTITY)


def commit(store: Store, delivery: Delivery, **options: Any) -> UnitRecord:
    """Write the parts of a unit; its record is in no log yet."""
    return commit_unit(
        delivery.unit,
        delivery.closing,
        delivery.payloads,
        store=store,
        schema=SCHEMA,
        levels=LEVELS,
        **options,
    )


def write_log(store: Store, records: Sequence[UnitRecord], dataset: Dataset = DATASET) -> CommitLog:
    """Write the head, and one log record for each unit."""
    open_dataset(store, dataset)
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="a test")
    for record in records:
        log.append([record])
    return log


def sound(store: Store, units: int = 3) -> list[UnitRecord]:
    """Write a dataset in which nothing is wrong; the newest unit is behind the manifest."""
    records = [commit(store, deliver(f"u-{n}", lost=[n])) for n in range(units)]
    log = write_log(store, records[:-1])
    write_manifest(store)
    log.append(records[-1:])
    return records


def with_rows(
    store: Store, record: UnitRecord, change: Callable[[pa.Table], pa.Table]
) -> UnitRecord:
    """Return a record whose first part holds changed rows: a writer's fault, not the disk's."""
    part = record.parts[0]
    with store.open(part.path) as file:
        rows = pq.read_table(file)
    store.delete(part.path)
    with PartWriter(store, SCHEMA, unit=record.unit, bucket=part.bucket) as writer:
        writer.add(change(rows).cast(SCHEMA))
        [changed] = writer.publish()
    return replace(record, parts=(changed, *record.parts[1:]))


def with_column(rows: pa.Table, name: str, values: Sequence[Any]) -> pa.Table:
    """Return rows in which one column holds other values."""
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))
