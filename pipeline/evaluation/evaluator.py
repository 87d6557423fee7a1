"""One work unit through all candidates: what a worker does."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.decode import Decoder
from pipeline.evaluation.clips import Cutter, frame_rule, frames
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.lineup import Description, line_up
from pipeline.evaluation.measures import Measures
from pipeline.evaluation.tally import CandidateTally, Cost, ScoreTotals
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Sample, WorkUnit
from pipeline.sources.reader import SampleReader
from pipeline.tokenizers.pictures import Strip, draw
from vidtok.evaluation.codebook import CodebookUse


class Evaluator:
    """Holds the networks and one decoder; not for several threads at once.

    Raises:
        ConfigError: weights are missing or are those of another model, or there is no GPU.
    """

    def __init__(self, config: EvaluationConfig, device: str) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        # `float32` means float32: TensorFloat-32 would make other tokens of some of them.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        self._config = config
        self._device = device
        self._lineup = line_up(config, device)
        self._measures = Measures(config, list(self._lineup.groups), device)
        self._decoder = Decoder(frame_rule(config.clip))

    def describe(self) -> tuple[list[Description], dict[str, str]]:
        """Return the candidates in the order of the table, and why what was asked for is absent."""
        return self._lineup.descriptions, {**self._lineup.absent, **self._measures.absent}

    def close(self) -> None:
        """End the decoder's process."""
        self._decoder.close()

    def evaluate(self, unit: WorkUnit, pictures: int) -> ScoreTotals:
        """Return the tally of a unit.

        Args:
            unit: a tar, or one video.
            pictures: of how many of its videos to draw one, from the first on.

        Raises:
            StoreError: the source cannot be read now.
        """
        tally = ScoreTotals()
        for sample in SampleReader(self._config.source).read(unit):
            if isinstance(sample, Quarantined):
                tally.broken.append(sample)
                continue
            try:
                video = self._video(sample, unit.unit, len(tally.pictures) < pictures)
            except QuarantineError as error:
                tally.broken.append(Quarantined.of(error, unit=unit.unit, key=sample.key))
                continue
            tally.merge(video)
        tally.versions = self._measures.versions
        return tally

    def _video(self, sample: Sample, unit: str, wants_picture: bool) -> ScoreTotals:
        """Return the tally of one video; nothing of it is kept if it breaks at its end."""
        work = _Video(name=f"{unit}/{sample.key}", key=sample.key)
        cutters = {length: Cutter(length, self._config.clip) for length in self._lineup.groups}
        for frame in frames(self._decoder, sample, unit, self._config.clip):
            for length, cutter in cutters.items():
                self._clip(work, length, cutter.add(frame))
        for length, cutter in cutters.items():
            self._clip(work, length, cutter.rest())
        if not work.tally.candidates:
            return ScoreTotals(short=[work.name])
        work.tally.videos.append(work.name)
        if wants_picture:
            work.tally.pictures.append((sample.key, draw(work.strips)))
        return work.tally

    def _clip(self, work: "_Video", length: int | None, clip: Tensor | None) -> None:
        """Let every candidate of a length reconstruct a clip, and score what comes back."""
        if clip is None:
            return
        original, whole = clip.to(self._device), length is None
        index = work.clips.get(length, 0)
        work.clips[length] = index + 1
        work.tally.add_original(length, self._measures.features(original, whole=whole))
        if index == 0:
            work.strips.append(Strip("original", clip))
        for candidate in self._lineup.groups[length]:
            back = candidate.reconstruct(original, f"{work.key}/{index}")
            scores = self._measures.score(original, back.video)
            tally = work.tally.candidates.setdefault(candidate.name, CandidateTally())
            features = self._measures.features(back.video, whole=whole)
            frames, pixels = clip.shape[2], clip[0, 0].numel()
            cost = Cost(clips=1, frames=frames, pixels=pixels, bits=back.bits)
            tally.add_clip(work.name, scores, features, cost)
            if back.indices is not None and "codebook" in self._config.metrics:
                if tally.codebook is None:
                    levels = self._lineup.configs[candidate.name].fsq_levels
                    tally.codebook = CodebookUse(levels)
                tally.codebook.update(back.indices)
            if index == 0:
                work.strips.append(Strip(candidate.name, back.video.cpu(), clip))


@dataclass(slots=True)
class _Video:
    """One video under way."""

    name: str
    key: str
    tally: ScoreTotals = field(default_factory=ScoreTotals)
    clips: dict[int | None, int] = field(default_factory=dict)
    """How many there were, by length."""
    strips: list[Strip] = field(default_factory=list)
    """The first clip of each length, and what came back of it."""
