"""Probes a work unit before a job: what it holds, and how long reading and decoding take.

    WorkUnit ─► SampleReader, all ─► Decoder, the first ones within the time budget ─► Probe

The unit is read to its end as the job reads it, so its samples are counted. Decoding stops when the
time budget is used up, even within a video, whose clips so far are counted. Where the number of
clips of a video is limited, its clips are known only at its end, so it is decoded to its end.
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
from pipeline.stages.clip_filter import ClipFilter
from pipeline.stages.found import Found
from pipeline.storage.files import file_size


@dataclass(slots=True, kw_only=True)
class Probe:
    """What was found in one unit."""

    unit: str
    samples: int = 0
    readable: int = 0
    """Number of samples that reading did not quarantine."""
    video_bytes: int = 0
    """Bytes of the readable samples; a file counts once for each of its spans."""
    quarantined: list[Quarantined] = field(default_factory=list)
    """Samples that reading quarantined, in the whole unit, and those that decoding did."""
    filtered: list[Quarantined] = field(default_factory=list)
    """Decoded samples that the clip rule takes no clip of."""
    seconds_seen: float = 0.0
    """Seconds of source that were decoded."""
    seconds_kept: float = 0.0
    """Seconds of source in clips."""
    read_s: float = 0.0
    """Seconds of reading the whole unit."""
    decoded: int = 0
    """Number of readable samples that were given to the decoder."""
    cut_short: int = 0
    """Number of these whose decoding was stopped by the time budget."""
    decode_s: float = 0.0
    """Seconds of decoding."""
    clips: Counter[str] = field(default_factory=Counter)
    """Number of clips of the decoded samples that become rows, by bucket."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Number of other clips of the decoded samples, by the rule that drops them."""
    examples: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    """One clip [T, H, W, 3] of each bucket."""

    @property
    def scale(self) -> float:
        """Ratio of readable samples to decoded ones."""
        return self.readable / self.decoded if self.decoded else 0.0

    @property
    def whole(self) -> bool:
        """Whether every readable sample was decoded to its end."""
        return self.decoded == self.readable and not self.cut_short


def probe_unit(
    unit: WorkUnit,
    decoder: Decoder,
    *,
    seconds: float | None,
    source: VideoSource,
    images: bool,
    clip_filter: ClipFilter,
) -> Probe:
    """Read a unit, and decode its first samples.

    Args:
        unit: the unit.
        decoder: a decoder with the job's rules and limits.
        seconds: time budget for decoding, in which at least one clip is decoded. None decodes
            nothing.
        source: the job's settings of its sources.
        images: whether a sample may be an image.
        clip_filter: the job's filter of clips.

    Raises:
        StoreError: the source cannot be read.
    """
    probe = Probe(unit=unit.unit)
    samples = SampleReader(source, images=images).read(unit)
    while True:
        began = time.monotonic()
        sample = next(samples, None)
        probe.read_s += time.monotonic() - began
        if sample is None:
            return probe
        probe.samples += 1
        if isinstance(sample, Quarantined):
            probe.quarantined.append(sample)
            continue
        probe.readable += 1
        video = sample.video
        probe.video_bytes += file_size(video) if isinstance(video, str) else len(video)
        if seconds is not None and (not probe.decoded or probe.decode_s < seconds):
            _decode(sample, probe, decoder, seconds, clip_filter)


def _decode(
    sample: Sample, probe: Probe, decoder: Decoder, seconds: float, clip_filter: ClipFilter
) -> None:
    decoder.start()
    began = time.monotonic()
    until = began + seconds - probe.decode_s
    found = Found()
    cut_short = False
    try:
        for clip, frames in decoder.decode(sample, probe.unit):
            rule = clip.dropped or clip_filter.dropping(clip)
            found.add(clip, rule)
            if frames is not None and not rule:
                num_frames, height, width, _ = frames.shape
                bucket = Bucket(frames=num_frames, height=height, width=width).name
                probe.clips[bucket] += 1
                probe.seconds_kept += clip.end_s - clip.start_s
                probe.examples.setdefault(bucket, frames)
            if time.monotonic() > until and not decoder.limits_clips:
                cut_short = True
                break
        else:
            if not found.written:
                probe.filtered.append(found.filtered(probe.unit, sample.key, decoder.shortest))
    except QuarantineError as error:
        index = found.written + found.dropped.total() if found.written else None
        record = Quarantined.of(error, unit=probe.unit, key=sample.key, clip_index=index)
        probe.quarantined.append(record)
    probe.cut_short += cut_short
    probe.dropped.update(found.dropped)
    probe.seconds_seen += found.microseconds / 1e6
    probe.decoded += 1
    probe.decode_s += time.monotonic() - began
