"""A look at a source: how much is there, and what a sample of its videos and images is like.

Names are listed as a job lists them. Of the sample only headers and first pictures are decoded.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import fmean
from typing import Final

from pipeline.config.source import ListConfig, VideoSource
from pipeline.decode import ClipRule, Decoder
from pipeline.operations.plan.estimate import evenly
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Sample, VideoFacts, WorkUnit
from pipeline.sources.lists import is_list, list_columns
from pipeline.sources.planning import plan_units
from pipeline.sources.reader import SampleReader
from pipeline.storage.files import file_size, find_files

_VIDEO_COLUMNS: Final = ("video", "video_path", "path", "file", "file_name", "video_url", "url")

_CAPTION_COLUMNS: Final = ("caption", "text", "prompt", "description")

_TARS_MEASURED: Final = 64
"""Maximum number of tars whose size is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One sample that was looked at."""

    facts: VideoFacts
    is_image: bool
    has_caption: bool

    @property
    def length_s(self) -> float | None:
        """Length of a video in seconds; None for an image, and if the file does not say it."""
        length = self.facts.length_s
        return length if length is not None and 0 < length < math.inf else None


@dataclass(slots=True, kw_only=True)
class Survey:
    """What a source holds."""

    source: VideoSource
    """Settings of the source, with the columns of its lists."""
    units: Sequence[WorkUnit]
    notes: list[str] = field(default_factory=list)
    """Lines about files that are left aside."""
    seen: list[Seen] = field(default_factory=list)
    broken: list[Quarantined] = field(default_factory=list)
    """Samples that cannot be read or opened."""
    bytes: int = 0
    """Bytes of the samples that were seen."""
    samples: float = 0.0
    """Number of samples of the source."""
    is_exact: bool = True
    """Whether `samples` was counted; of tars it is estimated from their sizes."""
    stopped: bool = False
    """Whether the time budget ended the look early."""

    @property
    def looked_at(self) -> int:
        """Number of samples that were looked at."""
        return len(self.seen) + len(self.broken)

    @property
    def videos(self) -> list[Seen]:
        """Videos among the seen samples."""
        return [one for one in self.seen if not one.is_image]

    @property
    def images(self) -> list[Seen]:
        """Images among the seen samples."""
        return [one for one in self.seen if one.is_image]


def survey_source(uri: str, *, look: int = 64, seconds: float = 60.0) -> Survey:
    """Look at a source.

    Args:
        uri: a tar, file, folder, glob or list, as `source.uri` of a job.
        look: maximum number of samples to look at, of units at even distances.
        seconds: time budget in seconds, after which no further sample is read.

    Raises:
        ConfigError: the source matches nothing.
        StoreError: the source cannot be read.
    """
    source = VideoSource(uri=[uri])
    if is_list(uri):
        source = VideoSource(uri=[uri], lists=_columns(uri))
    notes: list[str] = []
    units = plan_units(source, images=True, notes=notes)
    found = Survey(source=source, units=units, notes=notes)
    drawn = evenly(units, look, len(units))
    each = -(-look // len(drawn))
    until = time.monotonic() + seconds
    in_tars: list[int | None] = []
    rule = ClipRule(frames=1, height=1, width=1, fps=None, short="drop")
    with Decoder(rule) as decoder:
        for unit in drawn:
            before, most = found.looked_at, min(each, look - found.looked_at)
            for sample in _samples(unit, source, most):
                _look_at(sample, unit.unit, decoder, found)
                found.stopped = time.monotonic() > until
                if found.stopped:
                    break
            if unit.tar_uri is not None:
                count = found.looked_at - before
                in_tars.append(count if count < most and not found.stopped else None)
            if found.stopped:
                break
    _count(found, in_tars)
    return found


def _columns(uri: str) -> ListConfig:
    """Return the columns of a list that by their names hold videos and captions."""
    files = [name for name in find_files(uri) if is_list(name)]
    names = list_columns(files[0], None) if files else []
    video = next((name for name in _VIDEO_COLUMNS if name in names), "video")
    caption = next((name for name in _CAPTION_COLUMNS if name in names), None)
    return ListConfig(video=video, caption=caption)


def _samples(unit: WorkUnit, source: VideoSource, most: int) -> Iterator[Sample | Quarantined]:
    """Yield the first samples of a unit, and read no others."""
    if unit.rows is not None:
        stop = min(unit.rows.stop, unit.rows.start + most)
        unit = replace(unit, rows=replace(unit.rows, stop=stop))
    elif unit.tar_uri is None:
        unit = replace(unit, files=unit.files[:most])
    yield from islice(SampleReader(source, images=True).read(unit), most)


def _look_at(sample: Sample | Quarantined, unit: str, decoder: Decoder, found: Survey) -> None:
    if isinstance(sample, Quarantined):
        found.broken.append(sample)
        return
    try:
        facts = decoder.facts(sample, unit)
        if min(facts.height, facts.width) < 1:
            raise QuarantineError("decode", "corrupt", "a picture without pixels")
    except QuarantineError as error:
        found.broken.append(Quarantined.of(error, unit=unit, key=sample.key))
        return
    if (span := sample.span) is not None and (end := span.end_s or facts.length_s) is not None:
        facts = replace(facts, length_s=end - span.start_s)
    video = sample.video
    found.bytes += file_size(video) if isinstance(video, str) else len(video)
    found.seen.append(
        Seen(facts=facts, is_image=sample.is_image, has_caption=sample.caption is not None)
    )


def _count(found: Survey, in_tars: Sequence[int | None]) -> None:
    """Set the number of samples of the source.

    Args:
        found: the survey.
        in_tars: number of samples of each tar that was read; None if it was not read to its end.
    """
    tars = [unit.tar_uri for unit in found.units if unit.tar_uri is not None]
    found.samples = sum(
        len(unit.files) + (unit.rows.stop - unit.rows.start if unit.rows else 0)
        for unit in found.units
    )
    counted = [count for count in in_tars if count is not None]
    if len(counted) == len(tars):
        found.samples += sum(counted)
        return
    found.is_exact = False
    some = tars[:: -(-len(tars) // _TARS_MEASURED)]
    tar_bytes = fmean(file_size(tar, found.source.storage_options) for tar in some) * len(tars)
    if found.seen:
        found.samples += tar_bytes / (found.bytes / len(found.seen))
    found.samples = max(found.samples, found.looked_at)
