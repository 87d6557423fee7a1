"""Read one unit of a parent dataset: its rows as batch rows of clips without frames, and a closing.

    WorkUnit ─► parts of the parent ─► BatchRow … BatchRow ─► Closing

This stage replaces the decode stage in a job that makes a sibling. All else is the same, so a
sibling has the parent's units, buckets, clips and their order.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np

from pipeline.config.embed import ROW_CLIPS, ParentConfig
from pipeline.dataset.log.forgotten import NOTHING, Forgotten
from pipeline.dataset.part_reader import part_rows
from pipeline.dataset.records import Counts, Part
from pipeline.dataset.schema import CLIP_FIELDS
from pipeline.records import Bucket, Clip, WorkUnit, from_json
from pipeline.stages.messages import BatchHeader, BatchRow, Closing
from pipeline.storage.store import Store

_COLUMNS: Final = [f.name for f in CLIP_FIELDS if f.name not in ("clip_id", "meta")]
"""Columns that a sibling shares with its parent. `meta` stays with the parent."""


class RowsStage(AbstractContextManager["RowsStage"]):
    """Reads the rows of a parent's units.

    Args:
        parent: the parent.
    """

    def __init__(self, parent: ParentConfig) -> None:
        self._store = Store(parent.uri, parent.storage_options)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Do nothing; the decode stage has a process to end."""

    def __call__(
        self, unit: WorkUnit, *, one_by_one: bool = False, forgotten: Forgotten = NOTHING
    ) -> Iterator[BatchRow | Closing]:
        """Yield a unit's batch rows, then its closing row.

        Args:
            unit: the unit.
            one_by_one: ignored; no row is given up alone.
            forgotten: samples that are counted and left out.

        Raises:
            DamagedFile: a part of the parent is missing or damaged.
            StoreError: the store refuses.
        """
        assert unit.parent is not None
        keys: set[str] = set()
        lost: set[str] = set()
        digests: list[str] = []
        microseconds = rows = 0
        for part in from_json(tuple[Part, ...], unit.parent.parts):
            for found in self._clips(part):
                lost.update(c.key for c in found if forgotten.has(unit.unit, c.key))
                clips = tuple(clip for clip in found if clip.key not in lost)
                if not clips:
                    continue
                keys.update(clip.key for clip in clips)
                microseconds += sum(round(1e6 * (clip.end_s - clip.start_s)) for clip in clips)
                rows += len(clips)
                header = BatchHeader(
                    unit=unit.unit,
                    seq=len(digests),
                    bucket=Bucket.named(part.bucket),
                    clips=clips,
                )
                digests.append(header.digest())
                yield BatchRow(header, np.zeros((1, 1, 1, 1, 3), np.uint8))
        counts = Counts(
            samples_read=len(keys) + len(lost),
            samples_with_clips=len(keys),
            samples_forgotten=len(lost),
            clips_seen=rows,
            clips_written=rows,
            microseconds_decoded=microseconds,
        )
        yield Closing(unit=unit.unit, digests=tuple(digests), counts=counts)

    def _clips(self, part: Part) -> Iterator[tuple[Clip, ...]]:
        """Yield the clips of a part, as many at a time as a batch row holds."""
        for table in part_rows(self._store, part, _COLUMNS):
            for batch in table.to_batches(max_chunksize=ROW_CLIPS):
                yield tuple(map(_clip, batch.to_pylist()))


def _clip(row: dict[str, Any]) -> Clip:
    return Clip(**{**row, "crop": tuple(row["crop"])})
