"""Decode one work unit: its samples in, batch rows of clips out, and a closing row at the end.

    WorkUnit ─► SampleReader ─► Decoder ─► BatchRow … BatchRow ─► Closing

A generator without state between units: the same unit always gives the same rows, in the same
order, cut at the same places. A row holds clips of one bucket and leaves when it is full. At the
unit's end, rows that are not full leave in the order in which they were begun. A sample's clips may
be in several rows. At most one row for each bucket is open.

The closing row lists the digest of every row before it. The digests show the commit a replay with a
different outcome, which counts alone would not show.

A unit that keeps failing is decoded one by one: a sample that raises an error which no reason of
the quarantine covers is then given up, and the others are kept. If no other sample can be read, or
if the last two samples fail, the store is away, and the error is raised as before.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.config.job import AudioConfig, ClipConfig, DecodeConfig
from pipeline.config.source import VideoSource
from pipeline.config.tracks import TrackConfig
from pipeline.dataset.log.forgotten import NOTHING, Forgotten, without_forgotten
from pipeline.dataset.side_columns import (
    SideColumn,
    clip_columns,
    sound_columns,
    track_columns,
)
from pipeline.decode import DecodeLimits, Decoder, SoundRule, clip_rules
from pipeline.decode.packages import require_packages
from pipeline.quarantine import (
    NO_SOUND,
    Quarantined,
    QuarantineError,
    giving_up,
)
from pipeline.records import Bucket, Clip, Sample, WorkUnit, to_json
from pipeline.sources.reader import SampleReader
from pipeline.stages.accounting import Found, UnitAccounting
from pipeline.stages.clip_filter import open_filter
from pipeline.stages.messages import BatchHeader, BatchRow, Closing, encode_rows, side_rows
from pipeline.stages.whole_video import video_row, whole_clip

SLOW_READ_S: Final = 30.0
"""Seconds of reading one sample after which its source is logged as slow."""

_log = logging.getLogger(__name__)


def open_decoder(
    clip: Mapping[str, Any], decode: DecodeConfig, audio: AudioConfig | None = None
) -> Decoder:
    """Return the decoder of a job, which a caller must close.

    Args:
        clip: the dataset's `identity.clip`, from `ClipConfig.identity`.
        decode: when a video is given up.
        audio: sound that is stored; None stores none.

    Raises:
        PipelineError: a package that a setting needs is not on this node.
    """
    sound = None
    if audio is not None:
        sound = SoundRule(codec=audio.codec, rate=audio.rate, channels=audio.channels)
    numbers = {column.name: column.type for column in clip_columns(clip)}
    require_packages(clip)
    return Decoder(clip_rules(clip), DecodeLimits(**decode.limits()), sound, numbers)


class DecodeStage(AbstractContextManager["DecodeStage"]):
    """Holds one decoder; a context manager, not for several threads at once.

    Args:
        source: how samples are read; a unit carries its own URIs.
        clip: what is cut from a video. If it is whole, a video is one clip, and its row carries
            the file.
        decode: when to give a video up.
        row_clips: N, the clips in one row.
        audio: sound that is stored; None stores none.
        tracks: tracks that are stored.
    """

    def __init__(
        self,
        source: VideoSource,
        clip: ClipConfig,
        decode: DecodeConfig,
        *,
        row_clips: int,
        audio: AudioConfig | None = None,
        tracks: Sequence[TrackConfig] = (),
    ) -> None:
        self._decoder = open_decoder(clip.identity(), decode, audio)
        self._filter = open_filter(clip.identity())
        self._side = clip_columns(clip.identity())
        self._side += () if audio is None else sound_columns(audio.identity())
        self._side += track_columns([track.name for track in tracks])
        self._tracks = tracks
        self._needs_sound = audio is not None and audio.required
        self._reader = SampleReader(source, images=clip.takes_images, tracks=tracks)
        self._clip = clip
        self._row_clips = row_clips

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder's child process."""
        self._decoder.close()

    def __call__(
        self, unit: WorkUnit, *, one_by_one: bool = False, forgotten: Forgotten = NOTHING
    ) -> Iterator[BatchRow | Closing]:
        """Yield a unit's batch rows as they become full, then its closing row.

        Args:
            unit: the unit.
            one_by_one: whether a sample that fails is given up alone.
            forgotten: samples that are counted and left out.

        Raises:
            StoreError: the source cannot be read now; there is no closing row.
        """
        accounting = UnitAccounting(unit.unit)
        pending = _PendingRows(unit.unit, self._row_clips, self._side)
        unit, files_left_out = without_forgotten(unit, forgotten)
        accounting.forgotten(files_left_out)
        samples = self._reader.read(unit, one_by_one=one_by_one)
        for sample in accounting.timed("read", samples):
            if forgotten.has(unit.unit, sample.key):
                accounting.forgotten(1)
                continue
            if accounting.last_s > SLOW_READ_S:
                slow = f"slow source: reading took {accounting.last_s:.0f} s"
                _log.warning("%s/%s: %s", unit.unit, sample.key, slow)
            if isinstance(sample, Quarantined):
                accounting.quarantined_sample(sample)
                continue
            if self._clip.whole:
                if (row := self._video(sample, accounting, pending, one_by_one)) is not None:
                    yield accounting.listed(row)
                continue
            for clip, frames in self._clips(sample, accounting, one_by_one):
                if (row := pending.add(clip, frames)) is not None:
                    yield accounting.listed(row)
        for row in pending.rest():
            yield accounting.listed(row)
        yield accounting.closing()

    def _clips(
        self, sample: Sample, accounting: UnitAccounting, one_by_one: bool
    ) -> Iterator[tuple[Clip, NDArray[Any]]]:
        """Yield the clips of a sample that have frames; account for all of them."""
        found = Found()
        broken: QuarantineError | None = None
        try:
            decoded = self._decoded(sample, accounting.unit, one_by_one)
            for clip, frames in accounting.timed("decode", decoded):
                silent = self._needs_sound and clip.side.get("audio") is None
                rule = clip.dropped or (NO_SOUND if silent else self._filter.dropping(clip))
                found.add(clip, rule)
                if frames is not None and not rule:
                    yield self._with_tracks(clip, sample), frames
        except QuarantineError as error:
            broken = error
        accounting.sample(sample.key, found, broken, self._decoder.shortest)
        accounting.shot_ends(sample.key, self._decoder.shot_ends)

    def _with_tracks(self, clip: Clip, sample: Sample) -> Clip:
        """Return the clip with the values of its sample's tracks at its frames."""
        side = dict(clip.side)
        for track in self._tracks:
            if (found := sample.tracks.get(track.name)) is not None:
                values, outside = found.at(clip.frame_times, track.method)
                side |= {
                    track.name: values.astype("<f4").tobytes(),
                    f"{track.name}_outside": outside,
                }
        return replace(clip, side=side, frame_times=())

    def _decoded(
        self, sample: Sample, unit: str, one_by_one: bool
    ) -> Iterator[tuple[Clip, NDArray[Any] | None]]:
        """Yield the clips of a sample; one by one, any error is that of the sample."""
        with giving_up("decode", active=one_by_one):
            for clip, frames in self._decoder.decode(sample, unit):
                if one_by_one:
                    to_json(
                        replace(clip, side={})
                    )  # what cannot be stored fails here and not in the unit's commit
                yield clip, frames

    def _video(
        self,
        sample: Sample,
        accounting: UnitAccounting,
        pending: "_PendingRows",
        one_by_one: bool,
    ) -> BatchRow | None:
        """Return the row of a whole video, None if it has no frames; account for it."""
        row: BatchRow | None = None
        counted = Found()
        broken: QuarantineError | None = None
        with accounting.timing("decode"):
            try:
                with giving_up("decode", active=one_by_one):
                    found = whole_clip(self._decoder, sample, accounting.unit)
                    if found is not None:
                        to_json(found[0])
                        row = video_row(sample, *found, pending.next_seq())
                        counted.add(found[0], "")
            except QuarantineError as error:
                broken = error
        accounting.sample(sample.key, counted, broken, self._decoder.shortest)
        return row


class _PendingRows:
    """Collects the clips of each bucket in the array that becomes their row."""

    def __init__(self, unit: str, row_clips: int, side: Sequence[SideColumn]) -> None:
        self._unit = unit
        self._side = side
        self._row_clips = row_clips
        self._seq = 0
        self._open: dict[Bucket, tuple[list[Clip], NDArray[Any]]] = {}
        """Clips, and frames with room for a full row, in the order in which they were begun."""

    def add(self, clip: Clip, frames: NDArray[Any]) -> BatchRow | None:
        """Add a clip; return the row that it completes, if any."""
        num_frames, height, width, _ = frames.shape
        bucket = Bucket(frames=num_frames, height=height, width=width)
        if bucket not in self._open:
            # A new array for every row: Ray may still be storing the last one.
            self._open[bucket] = [], np.empty((self._row_clips, *frames.shape), frames.dtype)
        clips, row = self._open[bucket]
        row[len(clips)] = frames
        clips.append(clip)
        return self._take(bucket) if len(clips) == self._row_clips else None

    def next_seq(self) -> int:
        """Return the number of the next row."""
        self._seq += 1
        return self._seq - 1

    def rest(self) -> Iterator[BatchRow]:
        """Yield the rows that are not full."""
        for bucket in list(self._open):
            yield self._take(bucket)

    def _take(self, bucket: Bucket) -> BatchRow:
        clips, frames = self._open.pop(bucket)
        seq = self.next_seq()
        side = encode_rows(side_rows(clips, self._side)) if self._side else b""
        header = BatchHeader(
            unit=self._unit,
            seq=seq,
            bucket=bucket,
            clips=tuple(clips),
            side_digest=hashlib.sha256(side).hexdigest() if side else "",
        )
        return BatchRow(header, frames[: len(clips)], side)
