"""The result of planning: units that are left, and estimates of what they hold and cost."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pipeline.dataset.tally import dropped_by
from pipeline.formatting import counted, format_bytes, kept_of_decoded, labelled
from pipeline.operations.outcome import Outcome, first_of
from pipeline.operations.plan.estimate import Estimate
from pipeline.operations.plan.probe import Probe
from pipeline.quarantine import FILTERED, REASONS, TOO_SHORT, Quarantined

_SHOWN: Final = 20
"""Maximum number of printed quarantine records; `to_dict` returns all."""


@dataclass(slots=True, kw_only=True)
class UnitCounts:
    """Number of work units."""

    planned: int
    committed: int
    left: int
    """Units left to do: the sum of the next three."""
    left_tars: int
    left_runs: int
    """Runs of loose files."""
    left_list_runs: int
    """Runs of list rows."""


@dataclass(slots=True, kw_only=True)
class Estimates:
    """Totals over the units that are left; None where nothing was measured."""

    samples: Estimate | None = None
    video_bytes: Estimate | None = None
    clips: Estimate | None = None
    cell_bytes: Estimate | None = None
    """Bytes of all tokenizers' cells before compression, without the other columns."""
    decode_hours: Estimate | None = None
    """Hours of one decode actor, including reading."""
    tokenize_hours: Estimate | None = None
    """Hours of one tokenize actor on `Plan.device`."""
    decode_cost: Estimate | None = None
    tokenize_cost: Estimate | None = None


@dataclass(slots=True, kw_only=True)
class Plan(Outcome):
    """What is left of a job."""

    output: str
    fingerprint: str
    units: UnitCounts
    untrained: list[str]
    """Tokenizers without trained weights, which would start from a random initialisation."""
    whole_videos: bool
    """Whether each video is one clip; then only samples and bytes are estimated."""
    filter_rules: list[str] = field(default_factory=list)
    """Rules of `clip.filter`, in order."""
    left_aside: list[str] = field(default_factory=list)
    """Lines about the files of the sources that the job would not read."""
    probed: list[Probe] = field(default_factory=list)
    """Units that were read for the estimates."""
    estimates: Estimates = field(default_factory=Estimates)
    device: str | None = None
    """Device on which tokenizing was measured: `cpu` or `cuda`."""
    device_name: str = ""
    wants_gpu: bool = False
    """Whether the job would use a GPU but this machine has none."""

    @property
    def quarantined(self) -> list[Quarantined]:
        """Samples and clips of the probed units that the job would quarantine."""
        return [record for probe in self.probed for record in probe.quarantined]

    @property
    def filtered(self) -> list[Quarantined]:
        """Samples of the probed units that the job would filter."""
        return [record for probe in self.probed for record in probe.filtered]

    def lines(self) -> list[str]:
        """Return the lines to print."""
        units = self.units
        if not units.left:
            planned = counted(units.planned, "unit is", "units are")
            done = f"nothing to do: {planned} committed in {self.output}"
            return [done, *(labelled("left aside", line) for line in self.left_aside)]
        counts = f"{units.planned} planned · {units.committed} committed · {units.left} left"
        tars = counted(units.left_tars, "tar")
        kinds = f"{tars}, {counted(units.left_runs, 'run')} of files"
        lines = [
            labelled("output", f"{self.output} · fingerprint {self.fingerprint}"),
            labelled("units", counts),
            labelled("", f"{kinds}, {counted(units.left_list_runs, 'run')} of list rows"),
            *(labelled("left aside", line) for line in self.left_aside),
            *(labelled("untrained", f"{name}: weights are random") for name in self.untrained),
        ]
        if self.probed:
            lines += [*self._probed(), *self._estimates()]
        return lines

    def _probed(self) -> Iterator[str]:
        samples = sum(probe.samples for probe in self.probed)
        decoded = sum(probe.decoded for probe in self.probed)
        seconds = sum(probe.decode_s for probe in self.probed)
        read = f"{counted(len(self.probed), 'unit')}: {counted(samples, 'sample')} read"
        yield labelled("probed", f"{read}, {decoded} decoded in {seconds:.1f} s")
        if cut_short := sum(probe.cut_short for probe in self.probed):
            text = f"{cut_short} of them only in part, because the time budget was used up:"
            yield labelled("", f"{text} clips, bytes and hours are underestimated")
        if decoded:
            kept = sum(probe.seconds_kept for probe in self.probed)
            seen = sum(probe.seconds_seen for probe in self.probed)
            yield labelled("source", kept_of_decoded(kept, seen))
            yield from self._dropped()
        for label, lost in (("filtered", self.filtered), ("quarantine", self.quarantined)):
            for reason, count in Counter(record.reason for record in lost).most_common():
                yield labelled(label, f"{count:5d} {reason}: {(REASONS | FILTERED)[reason]}")
            yield from first_of(len(lost), [*map(str, lost[:_SHOWN])], labelled(label, ""))

    def _dropped(self) -> Iterator[str]:
        """Yield how many clips of the probed units become rows, and which rules drop the others."""
        dropped = sum((probe.dropped for probe in self.probed), Counter[str]())
        kept = sum(probe.clips.total() for probe in self.probed)
        seen = kept + dropped.total()
        yield labelled("clips", f"{kept} of {seen} kept")
        rules = dict.fromkeys(self.filter_rules, 0) | dict(dropped.most_common())
        for rule, count in rules.items():
            if rule != TOO_SHORT:  # one clip for each of its samples, which are listed below
                yield labelled("dropped", f"{count:5d} {dropped_by(rule)}")

    def _estimates(self) -> Iterator[str]:
        yield "extrapolated to the units left, ± two standard errors of the sample:"
        for name, (label, show, what) in _LABELS.items():
            if (estimate := getattr(self.estimates, name)) is not None:
                note = what.format(device=self.device_name)
                yield labelled(label, f"{_spread(estimate, show)}{note}")
        if self.whole_videos:
            yield labelled("", "each video is one clip of its own length: bytes and hours unknown")
        if self.wants_gpu:
            yield labelled("", "hours on a GPU differ, and this machine has none to measure on")


def _spread(estimate: Estimate, show: Callable[[float], str]) -> str:
    if estimate.error == 0:
        return show(estimate.value)
    if estimate.error is None:
        return f"about {show(estimate.value)} (no error estimate from one unit)"
    return f"{show(estimate.value)} ± {show(estimate.error)}"


def _amount(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


_LABELS: Final[dict[str, tuple[str, Callable[[float], str], str]]] = {
    "samples": ("samples", "{:,.0f}".format, ""),
    "video_bytes": ("videos", format_bytes, " to read"),
    "clips": ("clips", "{:,.0f}".format, ""),
    "cell_bytes": ("cells", format_bytes, " before compression"),
    "decode_hours": ("decode", _amount, " actor-hours, including reading; measured on this CPU"),
    "tokenize_hours": ("tokenize", _amount, " actor-hours; measured on {device}"),
    "decode_cost": ("cost", _amount, " for decoding"),
    "tokenize_cost": ("cost", _amount, " for tokenizing"),
}
