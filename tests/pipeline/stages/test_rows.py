"""Rows of a parent that the sibling forgot are counted, and not embedded again."""

from pipeline.config.embed import ParentConfig
from pipeline.dataset.log.forgotten import Forgotten, key_digest
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.records import state_of
from pipeline.records import ParentRows, WorkUnit, to_json
from pipeline.stages.messages import BatchRow, Closing
from pipeline.stages.rows import RowsStage
from pipeline.storage.store import Store
from tests.pipeline.operations.export.worlds import write_latents


def test_forgotten_samples_are_left_out(local: Store) -> None:
    write_latents(local, {"a": 6})
    [record] = read_manifest(local).units()
    rows = ParentRows(source=state_of(record), parts=to_json(record.parts).decode())
    forgotten = Forgotten({key_digest("k1"), key_digest("k0", "b")})
    with RowsStage(ParentConfig(uri=local.uri)) as stage:
        found = list(stage(WorkUnit(unit="a", parent=rows), forgotten=forgotten))
    closing = found[-1]
    assert isinstance(closing, Closing)
    keys = [c.key for row in found if isinstance(row, BatchRow) for c in row.header.clips]
    assert sorted(keys) == ["k0", "k0", "k2", "k2"]
    counts = closing.counts
    assert (counts.samples_read, counts.samples_forgotten, counts.clips_written) == (3, 1, 4)
    assert counts.imbalance() is None
