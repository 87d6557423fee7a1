"""Read: from one work unit to its samples, in an order that follows from the input alone.

Every sample of the unit comes out exactly once, as a `Sample` or as a `Quarantined` of stage
`read`, and counts as one sample read. Damaged data is an outcome; a store that fails is not: it
raises, the unit is tried again, and nothing is quarantined because credentials ran out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config.source import ListConfig
from pipeline.quarantine import Quarantined
from pipeline.records import Sample, WorkUnit
from pipeline.sources.list_rows import list_samples
from pipeline.sources.loose_files import file_sample
from pipeline.sources.tar_samples import _tar_samples


def read_samples(
    unit: WorkUnit,
    *,
    storage_options: Mapping[str, Any] | None = None,
    max_video_mb: float,
    lists: ListConfig | None = None,
    images: bool = False,
) -> Iterator[Sample | Quarantined]:
    """Yield the samples of a unit; at most two videos are in memory at a time.

    Args:
        unit: a tar, or a run of loose files or of a list's rows.
        storage_options: passed to the fsspec file system of the unit's URIs.
        max_video_mb: videos above this many MB (10^6 bytes) are quarantined unread.
        lists: how lists are read.
        images: whether a sample may be an image.

    Raises:
        StoreError: the store failed, or the tar is gone; the unit should be tried again.
    """
    max_video_bytes = int(max_video_mb * 1_000_000)
    if unit.tar_uri is not None:
        yield from _tar_samples(unit.unit, unit.tar_uri, storage_options, max_video_bytes, images)
    for file in unit.files:
        yield file_sample(unit.unit, file, storage_options, max_video_bytes)
    if unit.rows is not None:
        yield from list_samples(
            unit.unit, unit.rows, lists or ListConfig(), storage_options, max_video_bytes, images
        )
