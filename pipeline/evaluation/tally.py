"""What is added up: one tally per video, merged into one per unit and into one of everything.

Only sums travel. Tallies are merged in the order of the plan, so that the last bit of a sum of
floats does not depend on how many workers there were.
"""

from dataclasses import dataclass, field

from torch import Tensor

from pipeline.quarantine import Quarantined
from vidtok.evaluation.codebook import CodebookUse
from vidtok.evaluation.frechet import Gaussian
from vidtok.evaluation.meter import ClipScores


@dataclass(slots=True)
class Cost:
    """Bits spent on some clips, and the pixels that these have."""

    clips: int = 0
    frames: int = 0
    pixels: int = 0
    bits: float = 0.0

    def add(self, other: "Cost") -> None:
        """Take in other clips."""
        self.clips += other.clips
        self.frames += other.frames
        self.pixels += other.pixels
        self.bits += other.bits

    @property
    def bits_per_pixel(self) -> float:
        """A pixel is one position of one frame, its three colours together."""
        return self.bits / self.pixels


@dataclass(slots=True)
class CandidateTally:
    """One candidate's scores."""

    fidelity: ClipScores = field(default_factory=ClipScores)
    costs: dict[str, Cost] = field(default_factory=dict)
    """By video."""
    features: dict[str, Gaussian] = field(default_factory=dict)
    """Of the reconstructions, by metric."""
    codebook: CodebookUse | None = None

    def add_clip(
        self, video: str, scores: dict[str, Tensor], features: dict[str, Tensor], cost: Cost
    ) -> None:
        """Take in one clip."""
        self.fidelity.add(video, scores)
        self.costs.setdefault(video, Cost()).add(cost)
        _update(self.features, features)

    def merge(self, other: "CandidateTally") -> None:
        """Take in what was added up elsewhere."""
        self.fidelity.merge(other.fidelity)
        for video, cost in other.costs.items():
            self.costs.setdefault(video, Cost()).add(cost)
        for metric, gaussian in other.features.items():
            self.features.setdefault(metric, Gaussian()).merge(gaussian)
        if other.codebook is not None:
            if self.codebook is None:
                self.codebook = CodebookUse(other.codebook.levels)
            self.codebook.merge(other.codebook)

    def total(self) -> Cost:
        """Return the cost of all videos together."""
        total = Cost()
        for cost in self.costs.values():
            total.add(cost)
        return total


@dataclass(slots=True)
class ScoreTotals:
    """Everything that was found out about some videos."""

    candidates: dict[str, CandidateTally] = field(default_factory=dict)
    originals: dict[int | None, dict[str, Gaussian]] = field(default_factory=dict)
    """Features of the originals by length of the clips and metric."""
    videos: list[str] = field(default_factory=list)
    """Those that count, as `unit/key`."""
    broken: list[Quarantined] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    """Videos without a single clip."""
    pictures: list[tuple[str, bytes]] = field(default_factory=list)
    """Key of a video and its picture, PNG."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the tools that measured."""

    def add_original(self, length: int | None, features: dict[str, Tensor]) -> None:
        """Take in the features of an original clip."""
        _update(self.originals.setdefault(length, {}), features)

    def merge(self, other: "ScoreTotals") -> None:
        """Take in what was found out about other videos."""
        for name, candidate in other.candidates.items():
            self.candidates.setdefault(name, CandidateTally()).merge(candidate)
        for length, gaussians in other.originals.items():
            mine = self.originals.setdefault(length, {})
            for metric, gaussian in gaussians.items():
                mine.setdefault(metric, Gaussian()).merge(gaussian)
        self.videos += other.videos
        self.broken += other.broken
        self.short += other.short
        self.pictures += other.pictures
        self.versions.update(other.versions)


def _update(gaussians: dict[str, Gaussian], features: dict[str, Tensor]) -> None:
    for metric, values in features.items():
        gaussians.setdefault(metric, Gaussian()).update(values)
