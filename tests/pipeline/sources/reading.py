"""Read a unit with settings given one by one."""

from collections.abc import Iterator
from typing import Any

from pipeline.config.source import VideoSource
from pipeline.quarantine import Quarantined
from pipeline.records import Sample, WorkUnit, from_json, to_json
from pipeline.sources.planning import plan_units
from pipeline.sources.reader import SampleReader


def read_samples(
    unit: WorkUnit, *, images: bool = False, max_video_mb: float = 1, **settings: Any
) -> Iterator[Sample | Quarantined]:
    """Yield a unit's samples; the limit may be a fraction, which the settings do not allow."""
    source = VideoSource(uri=["unused"], **settings)
    source = source.model_copy(update={"max_video_mb": max_video_mb})
    return SampleReader(source, images=images).read(unit)


def units_of(uri: list[str], *, images: bool = False, **settings: Any) -> list[WorkUnit]:
    """Return the units of sources."""
    return plan_units(VideoSource(uri=uri, **settings), images=images)


def read_all(uri: str, *, images: bool = False, **settings: Any) -> list[Any]:
    """Return what all units of a source hold."""
    source = VideoSource(uri=[uri], **settings)
    reader = SampleReader(source, images=images)
    units = plan_units(source, images=images)
    assert all(from_json(WorkUnit, to_json(unit)) == unit for unit in units)
    return [outcome for unit in units for outcome in reader.read(unit)]
