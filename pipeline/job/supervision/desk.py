"""The desk: an actor beside the driver that describes blocks and collects the reports of actors.

Its process imports this module, so it does not import Ray Data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.job.supervision.health import Health
from pipeline.records import from_json
from pipeline.stages.messages import ABORTED, CLOSING, Aborted, Closing
from pipeline.stages.packing import unpack_payloads


def open_desk() -> Any:
    """Start the actor that describes blocks and collects the reports of actors, on this node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return Desk.options(  # type: ignore[attr-defined]
        num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
    ).remote()


@dataclass(frozen=True, slots=True)
class Described:
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
    node: str = ""
    """Name of the node that decoded the unit or gave it up."""
    unreadable: bool = False
    """Whether no file of the unit can be read, in its closing row."""


@ray.remote(max_concurrency=8)
class Desk(Health):
    """Describes blocks, and collects the reports of actors."""

    def describe(self, refs: list[Any]) -> list[list[Described]]:
        """Return which rows each block holds; a lost block has none."""
        return [list(_describe(ref)) for ref in refs]


def _describe(ref: Any) -> Iterator[Described]:
    try:
        block: pa.Table = ray.get(ref)
    except ray.exceptions.RayError:
        return
    for row in unpack_payloads(block).drop_columns(["rows"]).to_pylist():
        yield _with_header(row, row.pop("header"))


def _with_header(row: dict[str, Any], header: bytes) -> Described:
    if row["kind"] == CLOSING:
        closing = from_json(Closing, header)
        row.update(num_rows=len(closing.digests), node=closing.node)
        reasons = [record.reason for record in closing.quarantined]
        row["unreadable"] = reasons == ["file_unreadable"] * closing.counts.samples_read != []
    elif row["kind"] == ABORTED:
        aborted = from_json(Aborted, header)
        row.update(reason=aborted.reason, node=aborted.node)
    return Described(**row)
