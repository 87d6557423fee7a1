"""Counts what became of every sample and clip of a unit, up to its closing row."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.dataset.records import Counts
from pipeline.errors import StoreError
from pipeline.quarantine import (
    CLIP_FILTER,
    DROPPED,
    GIVEN_UP,
    NO_SOUND,
    TAIL,
    TOO_SHORT,
    Quarantined,
    QuarantineError,
)
from pipeline.records import Clip
from pipeline.stages.messages import BatchRow, Closing

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Found:
    """What decoding found in one sample."""

    written: int = 0
    """Number of clips with frames."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Number of clips that become no row, by the rule that drops them."""
    frames: int = 0
    """Number of frames of the source in these clips."""
    microseconds: int = 0
    """Microseconds of source in these clips."""

    def add(self, clip: Clip, rule: str) -> None:
        """Count a clip that a rule drops; an empty rule keeps it."""
        if rule:
            self.dropped[rule] += 1
        else:
            self.written += 1
        self.frames += clip.num_frames - clip.padded_frames
        self.microseconds += round(1e6 * (clip.end_s - clip.start_s))

    def filtered(self, unit: str, key: str, shortest: int) -> Quarantined:
        """Return the record of a sound sample without clips; one too short counts as one clip.

        Args:
            unit: its work unit.
            key: its key.
            shortest: number of frames of a clip of the shortest bucket.
        """
        rules = "; ".join(f"{count} by {rule}" for rule, count in self.dropped.items())
        if silent := self.dropped[NO_SOUND]:
            reason, detail = NO_SOUND, f"clips without sound: {silent}; audio.required is set"
        elif self.dropped.keys() - DROPPED.keys():
            reason, detail = CLIP_FILTER, f"clips dropped: {rules}"
        elif self.dropped.keys() - {TAIL}:
            reason, detail = TOO_SHORT, f"no shot gives a clip; dropped: {rules}"
        else:
            self.dropped = Counter([TOO_SHORT])  # also without a frame at the rate of the clips
            return Quarantined.too_short(
                unit=unit,
                key=key,
                frames=self.frames,
                seconds=self.microseconds / 1e6,
                shortest=shortest,
            )
        return Quarantined.filtered(unit=unit, key=key, reason=reason, detail=detail)


class UnitAccounting:
    """Counts what became of every sample and clip of one unit."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._counts: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._quarantined: list[Quarantined] = []
        self._shot_ends: dict[str, tuple[float, ...]] = {}
        self._digests: list[str] = []
        self._timings: dict[str, float] = {}
        self.last_s = 0.0
        """Seconds of the last `timing`."""
        self._failing, self._any_sound = 0, False

    def timed(self, stage: str, items: Iterator[T]) -> Iterator[T]:
        """Yield the items; only the seconds in which they are made count as `stage`'s."""
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
            self.last_s = time.monotonic() - began
            self._timings[stage] = self._timings.get(stage, 0.0) + self.last_s

    def listed(self, row: BatchRow) -> BatchRow:
        """List the digest of a row that is about to leave; return the row."""
        self._digests.append(row.header.digest())
        return row

    def forgotten(self, samples: int) -> None:
        """Count samples that are left out because they are forgotten."""
        self._counts.update(samples_read=samples, samples_forgotten=samples)

    def quarantined_sample(self, record: Quarantined) -> None:
        """Count a sample that could not be read."""
        self._counts.update(samples_read=1, samples_quarantined=1)
        self._quarantine(record)
        self._judge(record.reason)

    def _judge(self, reason: str | None) -> None:
        """Note whether a sample was given up, or shows that the others can be read."""
        self._failing = self._failing + 1 if reason == GIVEN_UP else 0
        self._any_sound = self._any_sound or reason != GIVEN_UP

    def sample(self, key: str, found: Found, broken: QuarantineError | None, shortest: int) -> None:
        """Count one sample that was decoded.

        A sample that breaks after some clips keeps them, and loses the clip that it breaks in. One
        that breaks before its first clip is lost whole.
        """
        written = found.written
        lost_clip = int(broken is not None and written > 0)
        if broken is not None:
            index = written + found.dropped.total() if written else None
            self._quarantine(Quarantined.of(broken, unit=self.unit, key=key, clip_index=index))
        self._judge(None if broken is None else broken.reason)
        outcome = "with_clips" if written else "quarantined" if broken is not None else "filtered"
        if outcome == "filtered":
            record = found.filtered(self.unit, key, shortest)
            _log.info("filtered %s", record)
            self._quarantined.append(record)
        dropped = found.dropped
        self._dropped.update(dropped)
        self._counts.update(["samples_read", f"samples_{outcome}"])
        self._counts.update(
            clips_seen=written + dropped.total() + lost_clip,
            clips_written=written,
            clips_filtered=dropped.total(),
            clips_quarantined=lost_clip,
            microseconds_decoded=found.microseconds,
        )

    def shot_ends(self, key: str, ends: Sequence[float]) -> None:
        """Keep the ends of the shots of a sample for the commit."""
        if ends:
            self._shot_ends[key] = tuple(ends)

    def _quarantine(self, record: Quarantined) -> None:
        _log.warning("quarantined %s", record)
        self._quarantined.append(record)

    def closing(self) -> Closing:
        """Return the closing row.

        Raises:
            StoreError: the last samples failed for no reason of theirs, or no sample was sound.
        """
        if self._failing and (self._failing > 1 or not self._any_sound):
            raise StoreError(
                f"{self._quarantined[-1].detail}; {self._failing} samples failed in this way"
            )
        return Closing(
            unit=self.unit,
            digests=tuple(self._digests),
            counts=Counts(**self._counts),
            quarantined=tuple(self._quarantined),
            dropped=dict(self._dropped),
            shot_ends=self._shot_ends,
            timings={stage: round(seconds, 6) for stage, seconds in self._timings.items()},
        )
