"""Counts the clips of one sample by what becomes of them; also for the probe of a plan."""

from collections import Counter
from dataclasses import dataclass, field

from pipeline.quarantine import DROPPED, NO_SOUND, TOO_SHORT, Quarantined
from pipeline.records import Clip


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
        if silent := self.dropped[NO_SOUND]:
            return Quarantined.without_sound(unit=unit, key=key, clips=silent)
        if self.dropped.keys() - DROPPED.keys():
            return Quarantined.by_filter(unit=unit, key=key, dropped=self.dropped)
        self.dropped = Counter([TOO_SHORT])  # also without a frame at the rate of the clips
        return Quarantined.too_short(
            unit=unit,
            key=key,
            frames=self.frames,
            seconds=self.microseconds / 1e6,
            shortest=shortest,
        )
