"""Looks into a work unit ahead of a job: what is in it, and what it takes to read and decode it.

    WorkUnit ─► SampleReader, all ─► Decoder, the first ones while the time lasts ─► Look

The unit is read to its end, as the job reads it, so its samples are counted. Decoding stops when
its time is over, also within a video: such a video counts with the clips that it gave until then.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from pipeline.config.source import VideoSource
from pipeline.decode import Decoder
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Bucket, Sample, WorkUnit
from pipeline.sources.reader import SampleReader
from pipeline.storage.files import file_size


@dataclass(slots=True, kw_only=True)
class Look:
    """What was found in one unit."""

    unit: str
    samples: int = 0
    readable: int = 0
    """Of these, those that are not quarantined unread."""
    video_bytes: int = 0
    """Of readable samples; a file counts for each of its spans."""
    quarantined: list[Quarantined] = field(default_factory=list)
    """Unread ones of the whole unit, and those that decoding met."""
    read_s: float = 0.0
    decoded: int = 0
    """Readable samples that were given to the decoder."""
    cut_short: int = 0
    """Of these, those for which the time was over before their end."""
    decode_s: float = 0.0
    clips: Counter[Bucket] = field(default_factory=Counter)
    """Clips with frames, of the decoded samples."""
    examples: dict[Bucket, NDArray[Any]] = field(default_factory=dict)
    """One clip [T, H, W, 3] of each bucket."""

    @property
    def scale(self) -> float:
        """How many times the decoded samples all readable ones are, by number."""
        return self.readable / self.decoded if self.decoded else 0.0

    @property
    def whole(self) -> bool:
        """Whether every readable sample was decoded to its end."""
        return self.decoded == self.readable and not self.cut_short


def look_into(
    unit: WorkUnit,
    decoder: Decoder,
    *,
    seconds: float | None,
    source: VideoSource,
    images: bool,
) -> Look:
    """Read a unit, and decode its first samples.

    Args:
        unit: what is looked into.
        decoder: with the job's rules and limits.
        seconds: to decode; one clip at least is waited for. None decodes nothing.
        source: the job's.
        images: whether a sample may be an image.

    Raises:
        StoreError: the source cannot be read.
    """
    look = Look(unit=unit.unit)
    samples = SampleReader(source, images=images).read(unit)
    while True:
        began = time.monotonic()
        sample = next(samples, None)
        look.read_s += time.monotonic() - began
        if sample is None:
            return look
        look.samples += 1
        if isinstance(sample, Quarantined):
            look.quarantined.append(sample)
            continue
        look.readable += 1
        video = sample.video
        look.video_bytes += file_size(video) if isinstance(video, str) else len(video)
        if seconds is not None and (not look.decoded or look.decode_s < seconds):
            _decode(sample, look, decoder, seconds)


def _decode(sample: Sample, look: Look, decoder: Decoder, seconds: float) -> None:
    decoder.start()
    began = time.monotonic()
    until = began + seconds - look.decode_s
    seen = with_frames = 0
    try:
        for clip, frames in decoder.decode(sample, look.unit):
            seen = clip.clip_index + 1
            if frames is not None:
                with_frames += 1
                num_frames, height, width, _ = frames.shape
                bucket = Bucket(frames=num_frames, height=height, width=width)
                look.clips[bucket] += 1
                look.examples.setdefault(bucket, frames)
            if time.monotonic() > until:
                look.cut_short += 1
                break
    except QuarantineError as error:
        index = seen if with_frames else None
        look.quarantined.append(
            Quarantined.of(error, unit=look.unit, key=sample.key, clip_index=index)
        )
    look.decoded += 1
    look.decode_s += time.monotonic() - began
