"""Sums of an evaluation: one `ScoreTotals` per video, merged into one per unit and one of all.

Workers return sums, never means. They are merged in the order of the plan, so the last bit of a sum
of floats does not depend on the number of workers.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from operator import add

from torch import Tensor

from pipeline.quarantine import Quarantined
from vidtok.evaluation.codebook import CodebookUse
from vidtok.evaluation.frechet import Gaussian
from vidtok.evaluation.meter import ClipScores


@dataclass(frozen=True, slots=True)
class Cost:
    """Bits spent on some clips, and their size."""

    clips: int = 0
    frames: int = 0
    pixels: int = 0
    bits: float = 0.0
    coded_bits: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*map(add, astuple(self), astuple(other)))

    def columns(self) -> dict[str, float]:
        """Return the columns of a result; a pixel is a position of one frame, in three colours."""
        return {
            "clips": self.clips,
            "frames": self.frames,
            "bits_per_pixel": self.bits / self.pixels,
            "coded_bits_per_pixel": self.coded_bits / self.pixels,
        }


@dataclass(slots=True)
class CandidateTotals:
    """Scores of one candidate."""

    fidelity: ClipScores = field(default_factory=ClipScores)
    costs: defaultdict[str, Cost] = field(default_factory=lambda: defaultdict(Cost))
    """Costs by video."""
    features: dict[str, Gaussian] = field(default_factory=dict)
    """Features of the reconstructions by metric."""
    codebook: CodebookUse | None = None

    def add_clip(
        self, video: str, scores: dict[str, Tensor], features: dict[str, Tensor], cost: Cost
    ) -> None:
        """Add one clip; `scores` are `[1, T]` by metric."""
        self.fidelity.add(video, scores, cost.frames)
        self.costs[video] += cost
        _update(self.features, features)

    def merge(self, other: "CandidateTotals") -> None:
        """Add the scores of other videos."""
        self.fidelity.merge(other.fidelity)
        for video, cost in other.costs.items():
            self.costs[video] += cost
        _merge(self.features, other.features)
        if other.codebook is not None:
            if self.codebook is None:
                self.codebook = CodebookUse(other.codebook.levels)
            self.codebook.merge(other.codebook)

    def total(self) -> Cost:
        """Return the cost of all videos together."""
        return sum(self.costs.values(), Cost())


@dataclass(slots=True)
class ScoreTotals:
    """All results of some videos."""

    candidates: dict[str, CandidateTotals] = field(default_factory=dict)
    originals: dict[int | None, dict[str, Gaussian]] = field(default_factory=dict)
    """Features of the originals by length of the clips and metric."""
    videos: list[str] = field(default_factory=list)
    """Videos that count, as `unit/key`."""
    broken: list[Quarantined] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    """Videos that are shorter than a clip, as `unit/key`."""
    pictures: list[tuple[str, bytes]] = field(default_factory=list)
    """Key of a video and its picture, PNG."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the tools that measured."""

    def add_original(self, length: int | None, features: dict[str, Tensor]) -> None:
        """Add the features of an original clip."""
        _update(self.originals.setdefault(length, {}), features)

    def merge(self, other: "ScoreTotals") -> None:
        """Add the results of other videos."""
        for name, candidate in other.candidates.items():
            self.candidates.setdefault(name, CandidateTotals()).merge(candidate)
        for length, gaussians in other.originals.items():
            _merge(self.originals.setdefault(length, {}), gaussians)
        self.videos += other.videos
        self.broken += other.broken
        self.short += other.short
        self.pictures += other.pictures
        self.versions.update(other.versions)


def _update(gaussians: dict[str, Gaussian], features: Mapping[str, Tensor]) -> None:
    for metric, values in features.items():
        gaussians.setdefault(metric, Gaussian()).update(values)


def _merge(gaussians: dict[str, Gaussian], others: Mapping[str, Gaussian]) -> None:
    for metric, other in others.items():
        gaussians.setdefault(metric, Gaussian()).merge(other)
