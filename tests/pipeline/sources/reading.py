"""Read a unit with settings given one by one."""

from collections.abc import Iterator
from typing import Any

from pipeline.config.source import VideoSource
from pipeline.quarantine import Quarantined
from pipeline.records import Sample, WorkUnit
from pipeline.sources.reader import SampleReader


def read_samples(
    unit: WorkUnit, *, images: bool = False, max_video_mb: float = 1, **settings: Any
) -> Iterator[Sample | Quarantined]:
    """Yield a unit's samples; the limit may be a fraction, which the settings do not allow."""
    source = VideoSource(uri=["unused"], **settings)
    source = source.model_copy(update={"max_video_mb": max_video_mb})
    return SampleReader(source, images=images).read(unit)
