"""Results of an evaluation as JSON-like rows: the table of candidates, and scores per video."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final, Self, get_args

from pipeline.evaluation.config import EvaluationConfig, Metric
from pipeline.evaluation.lineup import CandidateFacts
from pipeline.evaluation.measures import FVD_FRAMES
from pipeline.evaluation.protocols import PUBLISHED
from pipeline.evaluation.totals import CandidateTotals, ScoreTotals
from vidtok.evaluation import fvd, transnet
from vidtok.evaluation.frechet import Gaussian, frechet_distance, sample_note

_PUBLISHED: Final = ("psnr", "ssim", "lpips", "fvd")

_DIMENSIONS: Final = {"fvd": fvd.DIMENSIONS, "fd_transnetv2": transnet.PRINCIPAL_AXES}


@dataclass(frozen=True, slots=True)
class _Reference:
    """Originals of one length, and the distance of reconstructions from them."""

    originals: Gaussian
    distance: Callable[[Gaussian], float]

    @classmethod
    def of(cls, metric: str, originals: Gaussian) -> Self:
        if metric == "fd_transnetv2":
            return cls(originals, transnet.distance_from(originals))
        return cls(originals, partial(frechet_distance, originals))


def candidate_rows(
    config: EvaluationConfig, descriptions: list[CandidateFacts], totals: ScoreTotals
) -> list[dict[str, Any]]:
    """Return the table: the scores of each candidate over all frames of all clips.

    A metric that could not be computed is None; a metric that was not requested has no key. A
    candidate has no row if all videos are too short for it.
    """
    rows = []
    references = {
        length: {metric: _Reference.of(metric, gaussian) for metric, gaussian in features.items()}
        for length, features in totals.originals.items()
    }
    for description in descriptions:
        scores = totals.candidates.get(description.name)
        if scores is None:
            continue
        row: dict[str, Any] = {**asdict(description), **scores.total().columns()}
        means = scores.fidelity.mean()
        row |= {name: means.get(name) for name in ("psnr", "ssim", "lpips", "vmaf")}
        row |= _distances(scores, references[description.clip_frames])
        row = {k: v for k, v in row.items() if k in config.metrics or k not in get_args(Metric)}
        if scores.codebook is not None:
            row["codebook"] = scores.codebook.summary()
        if config.is_as_published and (published := _published(config, description)):
            row["published"] = published
        rows.append(row)
    return rows


def _distances(
    scores: CandidateTotals, references: dict[str, _Reference]
) -> dict[str, float | str | None]:
    found: dict[str, float | str | None] = {"fvd": None, "fd_transnetv2": None}
    for metric, gaussian in scores.features.items():
        reference = references[metric]
        if not gaussian.count:
            found[f"{metric}_note"] = f"no video has {FVD_FRAMES} frames"
            continue
        found[metric] = reference.distance(gaussian)
        if note := sample_note(reference.originals, gaussian, _DIMENSIONS[metric]):
            found[f"{metric}_note"] = note
    return found


def _published(config: EvaluationConfig, description: CandidateFacts) -> dict[str, float] | None:
    table = PUBLISHED[config.protocol] if config.protocol else {}
    values = table.get(description.model or "")
    return dict(zip(_PUBLISHED, values, strict=True)) if values else None


def video_rows(totals: ScoreTotals, descriptions: list[CandidateFacts]) -> list[dict[str, Any]]:
    """Return a row per video and candidate: means over the video's frames, and its bits."""
    names = [each.name for each in descriptions if each.name in totals.candidates]
    by_video = {name: totals.candidates[name].fidelity.by_video() for name in names}
    rows = []
    for video in totals.videos:
        unit, _, key = video.partition("/")
        for name in names:
            if video in by_video[name]:
                where = {"unit": unit, "video": key, "candidate": name}
                cost = totals.candidates[name].costs[video]
                rows.append({**where, **cost.columns(), **by_video[name][video]})
    return rows
