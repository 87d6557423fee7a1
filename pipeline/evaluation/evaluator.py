"""Work of one worker: a unit's videos through all candidates."""

from dataclasses import dataclass, field

from torch import Tensor

from pipeline.decode import Decoder
from pipeline.evaluation.clips import ClipFiller, frame_rule, frames
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.lineup import CandidateFacts, line_up
from pipeline.evaluation.measures import Measures
from pipeline.evaluation.totals import CandidateTotals, Cost, ScoreTotals
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Sample, WorkUnit
from pipeline.sources.reader import SampleReader
from pipeline.tokenizers.arithmetic import set_arithmetic
from pipeline.tokenizers.pictures import Strip, draw
from vidtok.evaluation.codebook import CodebookUse


class Evaluator:
    """Holds the networks and one decoder; for one thread.

    Raises:
        ConfigError: weights are missing or belong to another model, or there is no GPU.
    """

    def __init__(self, config: EvaluationConfig, device: str) -> None:
        set_arithmetic(config.threads)
        self._config = config
        self._device = device
        self._lineup = line_up(config, device)
        self._measures = Measures(config, list(self._lineup.groups), device)
        self._decoder = Decoder(frame_rule(config.clip))

    def describe(self) -> tuple[list[CandidateFacts], dict[str, str]]:
        """Return the candidates in the order of the table, and the reasons for what is absent."""
        return self._lineup.descriptions, {**self._lineup.absent, **self._measures.absent}

    def close(self) -> None:
        """End the decoder's process."""
        self._decoder.close()

    def evaluate(self, unit: WorkUnit, pictures: int) -> ScoreTotals:
        """Return the totals of a unit.

        Args:
            unit: a tar, or one video.
            pictures: number of its first videos that get a picture.

        Raises:
            StoreError: the source cannot be read.
            PipelineError: a tokenizer gives values that are not finite.
        """
        totals = ScoreTotals()
        for sample in SampleReader(self._config.source).read(unit):
            if isinstance(sample, Quarantined):
                totals.broken.append(sample)
                continue
            try:
                video = self._video(sample, unit.unit, len(totals.pictures) < pictures)
            except QuarantineError as error:
                totals.broken.append(Quarantined.of(error, unit=unit.unit, key=sample.key))
                continue
            totals.merge(video)
        totals.versions = self._measures.versions
        return totals

    def _video(self, sample: Sample, unit: str, wants_picture: bool) -> ScoreTotals:
        """Return the totals of one video; a video that breaks later leaves nothing."""
        work = _Video(name=f"{unit}/{sample.key}", key=sample.key)
        cutters = {length: ClipFiller(length, self._config.clip) for length in self._lineup.groups}
        for frame in frames(self._decoder, sample, unit, self._config.clip):
            for length, cutter in cutters.items():
                self._clip(work, length, cutter.add(frame))
        for length, cutter in cutters.items():
            self._clip(work, length, cutter.rest())
        if not work.totals.candidates:
            return ScoreTotals(short=[work.name])
        work.totals.videos.append(work.name)
        if wants_picture:
            work.totals.pictures.append((sample.key, draw(work.strips)))
        return work.totals

    def _clip(self, work: "_Video", length: int | None, clip: Tensor | None) -> None:
        """Reconstruct a clip with every candidate of its length, and score the results."""
        if clip is None:
            return
        original, whole = clip.to(self._device), length is None
        index = work.clips.get(length, 0)
        work.clips[length] = index + 1
        work.totals.add_original(length, self._measures.features(original, whole=whole))
        if index == 0:
            work.strips.append(Strip("original", clip))
        for candidate in self._lineup.groups[length]:
            back = candidate.reconstruct(original, f"{work.key}/{index}")
            scores = self._measures.score(original, back.video)
            totals = work.totals.candidates.setdefault(candidate.name, CandidateTotals())
            features = self._measures.features(back.video, whole=whole)
            frames, pixels = clip.shape[2], clip[0, 0].numel()
            cost = Cost(1, frames, pixels, back.bits, back.coded_bits)
            totals.add_clip(work.name, scores, features, cost)
            if back.indices is not None and "codebook" in self._config.metrics:
                if totals.codebook is None:
                    facts = self._lineup.facts[candidate.name]
                    totals.codebook = CodebookUse(facts.levels or (facts.codebook_size or 1,))
                totals.codebook.update(back.indices)
            if index == 0:
                work.strips.append(Strip(candidate.name, back.video.cpu(), clip))


@dataclass(slots=True)
class _Video:
    """State of one video."""

    name: str
    key: str
    totals: ScoreTotals = field(default_factory=ScoreTotals)
    clips: dict[int | None, int] = field(default_factory=dict)
    """Number of clips so far, by length."""
    strips: list[Strip] = field(default_factory=list)
    """The first clip of each length and its reconstructions."""
