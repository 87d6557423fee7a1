"""Decode one work unit: its samples in, batch rows of clips out, and a closing row at the end.

    WorkUnit ─► SampleReader ─► Decoder ─► BatchRow … BatchRow ─► Closing

A generator without state between units: the same unit always gives the same rows, in the same
order, cut at the same places. A row holds clips of one bucket and leaves when it is full; what is
left at the unit's end leaves in the order in which it was begun. A sample's clips may lie in
several rows. At most one row for each bucket is open.
The closing row lists the digest of every row before it, so that the commit notices a replay that
came out differently, which counts alone would not show.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.config.source import ListConfig
from pipeline.dataset.records import Counts
from pipeline.decode import ClipRule, DecodeLimits, Decoder
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Bucket, Clip, Sample, WorkUnit
from pipeline.sources.reader import SampleReader
from pipeline.stages.messages import BatchHeader, BatchRow, Closing
from pipeline.stages.whole_video import video_row, whole_clip

T = TypeVar("T")


class DecodeStage:
    """Holds one decoder; a context manager, not for several threads at once.

    Args:
        rules: the clips wanted, one rule for each bucket.
        limits: when to give a video up.
        row_clips: N, clips in one row.
        max_video_mb: larger videos are quarantined unread.
        storage_options: of the sources.
        lists: how their lists are read.
        whole: a video is one clip, and its row carries the file; the rules cut what is decoded at
            a time.
    """

    def __init__(
        self,
        rules: ClipRule | Sequence[ClipRule],
        limits: DecodeLimits,
        *,
        row_clips: int,
        max_video_mb: float,
        storage_options: Mapping[str, Any] | None = None,
        lists: ListConfig | None = None,
        whole: bool = False,
    ) -> None:
        rules = (rules,) if isinstance(rules, ClipRule) else tuple(rules)
        self._decoder = Decoder(rules, limits)
        self._images = not whole and any(rule.frames == 1 for rule in rules)
        self._whole = whole
        self._lists = lists
        self._row_clips = row_clips
        self._max_video_mb = max_video_mb
        self._storage_options = storage_options

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder's process."""
        self._decoder.close()

    def __call__(self, unit: WorkUnit) -> Iterator[BatchRow | Closing]:
        """Yield a unit's batch rows as they fill up, then its closing row.

        Raises:
            StoreError: the source cannot be read now; no closing row was yielded.
        """
        accounting = _UnitAccounting(unit.unit)
        pending = _PendingRows(unit.unit, self._row_clips)
        for sample in accounting.timed("read", self._reader.read(unit)):
            if isinstance(sample, Quarantined):
                accounting.quarantined_sample(sample)
                continue
            if self._whole:
                if (row := self._video(sample, accounting, pending)) is not None:
                    yield accounting.listed(row)
                continue
            for clip, frames in self._clips(sample, accounting):
                if (row := pending.add(clip, frames)) is not None:
                    yield accounting.listed(row)
        for row in pending.rest():
            yield accounting.listed(row)
        yield accounting.closing()

    def _clips(
        self, sample: Sample, accounting: "_UnitAccounting"
    ) -> Iterator[tuple[Clip, NDArray[Any]]]:
        """Yield the clips of a sample that have frames, and keep the accounting on all others."""
        written = filtered = 0
        broken: QuarantineError | None = None
        try:
            for clip, frames in accounting.timed(
                "decode", self._decoder.decode(sample, accounting.unit)
            ):
                if frames is None:
                    filtered += 1
                else:
                    written += 1
                    yield clip, frames
        except QuarantineError as error:
            broken = error
        accounting.sample(sample.key, written, filtered, broken)

    def _video(
        self, sample: Sample, accounting: "_UnitAccounting", pending: "_PendingRows"
    ) -> BatchRow | None:
        """Return the row of a whole video, if it has frames, and keep the accounting."""
        row: BatchRow | None = None
        broken: QuarantineError | None = None
        with accounting.timing("decode"):
            try:
                found = whole_clip(self._decoder, sample, accounting.unit)
                if found is not None:
                    row = video_row(sample, *found, pending.next_seq())
            except QuarantineError as error:
                broken = error
        accounting.sample(sample.key, int(row is not None), 0, broken)
        return row


class _PendingRows:
    """Collects the clips of each bucket in the array that becomes their row."""

    def __init__(self, unit: str, row_clips: int) -> None:
        self._unit = unit
        self._row_clips = row_clips
        self._seq = 0
        self._open: dict[Bucket, tuple[list[Clip], NDArray[Any]]] = {}
        """Clips, and frames with room for a full row, in the order in which they were begun."""

    def add(self, clip: Clip, frames: NDArray[Any]) -> BatchRow | None:
        """Take a clip in; return the row that it fills, if it does."""
        num_frames, height, width, _ = frames.shape
        bucket = Bucket(frames=num_frames, height=height, width=width)
        if bucket not in self._open:
            # A new array for every row: the one before may still be on its way out.
            self._open[bucket] = [], np.empty((self._row_clips, *frames.shape), frames.dtype)
        clips, row = self._open[bucket]
        row[len(clips)] = frames
        clips.append(clip)
        return self._take(bucket) if len(clips) == self._row_clips else None

    def next_seq(self) -> int:
        """Return the number of the row that leaves next."""
        self._seq += 1
        return self._seq - 1

    def rest(self) -> Iterator[BatchRow]:
        """Yield the rows that are not full."""
        for bucket in list(self._open):
            yield self._take(bucket)

    def _take(self, bucket: Bucket) -> BatchRow:
        clips, frames = self._open.pop(bucket)
        seq = self.next_seq()
        header = BatchHeader(unit=self._unit, seq=seq, bucket=bucket, clips=tuple(clips))
        return BatchRow(header, frames[: len(clips)])


class _UnitAccounting:
    """Where every sample and clip of one unit went."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._counts: Counter[str] = Counter()
        self._quarantined: list[Quarantined] = []
        self._digests: list[str] = []
        self._timings: dict[str, float] = {}

    def timed(self, stage: str, items: Iterator[T]) -> Iterator[T]:
        """Yield the items; the seconds spent on making them, and on nothing else, are `stage`'s."""
        while True:
            with self.timing(stage):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Count the seconds of a `with` block as `stage`'s."""
        began = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - began
            self._timings[stage] = self._timings.get(stage, 0.0) + seconds

    def listed(self, row: BatchRow) -> BatchRow:
        self._digests.append(row.header.digest())
        return row

    def quarantined_sample(self, record: Quarantined) -> None:
        self._counts["samples_read"] += 1
        self._counts["samples_quarantined"] += 1
        self._quarantined.append(record)

    def sample(self, key: str, written: int, filtered: int, broken: QuarantineError | None) -> None:
        """Count one sample that was decoded.

        One that broke after some clips keeps them, and loses the clip that it broke in; one that
        broke before is lost whole.
        """
        lost_clip = int(broken is not None and written > 0)
        if broken is not None:
            index = written + filtered if written else None
            self._quarantined.append(
                Quarantined.of(broken, unit=self.unit, key=key, clip_index=index)
            )
        outcome = "with_clips" if written else "quarantined" if broken is not None else "filtered"
        self._counts["samples_read"] += 1
        self._counts[f"samples_{outcome}"] += 1
        self._counts["clips_seen"] += written + filtered + lost_clip
        self._counts["clips_written"] += written
        self._counts["clips_filtered"] += filtered
        self._counts["clips_quarantined"] += lost_clip

    def closing(self) -> Closing:
        return Closing(
            unit=self.unit,
            digests=tuple(self._digests),
            counts=Counts(**self._counts),
            quarantined=tuple(self._quarantined),
            timings={stage: round(seconds, 6) for stage, seconds in self._timings.items()},
        )
