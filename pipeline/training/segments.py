"""Segments of work units: long runs of whole frames that training clips are cut from.

    WorkUnit ─► SampleReader ─► Decoder ─► Segment …

A segment is decoded once and serves many clips. A video's remainder is a segment of its own if it
is as long as a clip; a video shorter than a clip is always one segment. A broken video is skipped
and noted. The segments before the damage are used, and nothing replaces the others.
"""

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from pipeline.decode import ClipRule, Decoder
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import WorkUnit
from pipeline.sources.reader import SampleReader
from pipeline.training.clip_config import ClipSourceConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive frames of one video."""

    key: str
    """Key of the sample."""
    sample: int
    """Number of the sample within its unit."""
    index: int
    """Number of the segment within its video."""
    fps: float
    """Frames per second."""
    frames: NDArray[Any]
    """uint8 `[N, H, W, 3]`; H and W are the video's, and cover `ClipSourceConfig.decoded`."""


def source_keys(unit: WorkUnit) -> list[str]:
    """Return the names of a unit's files, without the folders."""
    if unit.tar_uri is not None:
        return [posixpath.basename(unit.tar_uri)]
    return [file.key for file in unit.files]


def source_uris(units: Iterable[WorkUnit]) -> set[str]:
    """Return the URIs of the units' tars, loose files and lists."""
    held = (
        {unit.tar_uri, unit.rows and unit.rows.uri, *(file.uri for file in unit.files)}
        for unit in units
    )
    return {uri for uris in held for uri in uris if uri}


class SegmentReader:
    """Reads one unit at a time and keeps segments up to `keep_mb`; `close` ends the decoder.

    Args:
        config: the source.

    Attributes:
        skipped: broken videos: `unit/key` → reason and detail.
    """

    def __init__(self, config: ClipSourceConfig) -> None:
        height, width = config.decoded
        self._config = config
        self._decoder = Decoder(
            ClipRule(
                frames=config.segment_frames,
                height=height,
                width=width,
                fps=config.decode_fps,
                short="pad",
                fit="whole",
            )
        )
        self._kept: dict[str, list[Segment]] = {}
        self._room = config.keep_mb << 20
        self.skipped: dict[str, str] = {}

    def close(self) -> None:
        """End the decoder's process."""
        self._decoder.close()

    def read(self, unit: WorkUnit, first_sample: int = 0) -> Iterator[Segment]:
        """Yield a unit's segments in order, from a sample on.

        Raises:
            StoreError: the source cannot be read.
        """
        if unit.unit in self._kept:
            yield from (s for s in self._kept[unit.unit] if s.sample >= first_sample)
            return
        # Units are kept whole or not at all, and never evicted: each epoch reads all units once, so
        # evicting the least recently used one would always evict the next one to be read.
        keep: list[Segment] | None = [] if first_sample == 0 else None
        room = self._room
        for segment in self._decode(unit, first_sample):
            room -= segment.frames.nbytes
            if keep is not None and room >= 0:
                keep.append(segment)
            else:
                keep = None
            yield segment
        if keep is not None:
            self._kept[unit.unit], self._room = keep, room

    def has_nothing(self, units: Sequence[WorkUnit]) -> bool:
        """Return whether all of these units were read and none gave a segment."""
        return all(self._kept.get(unit.unit) == [] for unit in units)

    def _decode(self, unit: WorkUnit, first_sample: int) -> Iterator[Segment]:
        config = self._config
        for number, sample in enumerate(SampleReader(config).read(unit)):
            if number < first_sample:
                continue
            if isinstance(sample, Quarantined):
                self._skip(sample)
                continue
            try:
                for clip, frames in self._decoder.decode(sample, unit.unit):
                    assert frames is not None  # the rule pads
                    num = len(frames) - clip.padded_frames
                    if clip.clip_index > 0 and num < config.frames:
                        continue
                    yield Segment(
                        key=sample.key,
                        sample=number,
                        index=clip.clip_index,
                        fps=config.decode_fps or clip.source_fps,
                        # A copy: a view would keep the memory of the padding.
                        frames=frames[:num].copy() if clip.padded_frames else frames,
                    )
            except QuarantineError as error:
                self._skip(Quarantined.of(error, unit=unit.unit, key=sample.key))

    def _skip(self, broken: Quarantined) -> None:
        why = f"{broken.reason}: {broken.detail}"
        self.skipped.setdefault(f"{broken.unit}/{broken.key}", why)
