"""From a source to a file with the settings of a first job."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Final

import yaml  # type: ignore[import-untyped]

from pipeline.config.job import JobConfig
from pipeline.config.json_schema import json_schema
from pipeline.decode.buckets import best_size
from pipeline.errors import ConfigError
from pipeline.formatting import counted, format_bytes, format_duration, json_text, labelled, visible
from pipeline.job.config_checks import check_job
from pipeline.operations.init.draft import Draft
from pipeline.operations.init.shapes import Shapes, cell_bytes, clips_of, fitting_shapes
from pipeline.operations.init.survey import Survey, survey_source
from pipeline.operations.machine import gpus
from pipeline.operations.outcome import Outcome, first_of
from pipeline.tokenizers.checks import vidtok_faults
from pipeline.tokenizers.facts import Facts, vidtok_facts
from vidtok.presets import PRESETS, bundled_weights

DEFAULT_MODEL: Final = "vidtok_fsq_causal_488_262144_tiny"
"""Model of a first job: its weights are in the package."""

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstJob(Outcome):
    """Settings of a job that were written, and what they follow from."""

    config: str
    """Path of the YAML file."""
    schema: str
    """Path of the JSON Schema beside it."""
    samples: float
    """Number of samples of the source."""
    samples_are_exact: bool
    looked_at: int
    clips: float
    """Number of clips to expect."""
    cell_bytes: float
    """Bytes of all cells to expect, before compression."""
    broken: list[str]
    """Samples of those looked at that cannot be read or opened, each with its reason."""
    found: list[str]
    """Lines about the source, as in the comments of the file."""

    def lines(self) -> list[str]:
        """Return the lines to print."""
        return [
            *self.found,
            labelled("written", f"{self.config}, and {self.schema} for editors"),
            labelled("estimate", f"vidtok-pipeline plan {self.config}"),
            labelled("run", f"vidtok-pipeline tokenize {self.config}"),
        ]


def write_first_job(
    source: str,
    *,
    model: str | None = None,
    out: str = "job.yaml",
    look: int = 64,
    seconds: float = 60.0,
) -> FirstJob:
    """Look at a source, and write the settings of a job that tokenizes it.

    Args:
        source: a tar, file, folder, glob or list, as `source.uri` of a job.
        model: name of a VidTok model; None takes `DEFAULT_MODEL`.
        out: path of the YAML file. The JSON Schema is written beside it.
        look: maximum number of samples to look at.
        seconds: time budget in seconds, after which no further sample is read.

    Raises:
        ConfigError: the file exists, the model does not, or the source has nothing to tokenize.
        StoreError: the source cannot be read.
    """
    path = Path(out)
    if path.exists():
        raise ConfigError(
            f"--out {out}: already exists, and init overwrites no file; name another file"
        )
    model = model or DEFAULT_MODEL
    weights = None if bundled_weights(model) else "hub"
    for fault in vidtok_faults(model, weights):
        raise ConfigError(f"--{fault}")
    survey = survey_source(source, look=look, seconds=seconds)
    facts = vidtok_facts(PRESETS[model])
    usable = survey.seen if 1 in facts.lengths else survey.videos
    if not usable:
        raise ConfigError(_nothing_usable(source, model, survey))
    shapes = fitting_shapes(usable, facts)
    clips, size = _expected(survey, shapes, facts)
    found = list(_found(survey, shapes, clips, size))
    schema = path.with_suffix(".schema.json")
    draft = Draft(model=model, weights=weights, survey=survey, shapes=shapes, gpus=gpus())
    text = draft.text(schema.name, found)
    if faults := check_job(JobConfig.model_validate(yaml.safe_load(text))):
        raise ConfigError("\n".join(map(str, faults)))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        if not schema.exists():
            schema.write_text(json_text(json_schema(JobConfig)) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
    return FirstJob(
        config=out,
        schema=str(schema),
        samples=survey.samples,
        samples_are_exact=survey.is_exact,
        looked_at=survey.looked_at,
        clips=clips,
        cell_bytes=size,
        broken=list(map(str, survey.broken)),
        found=found,
    )


def _nothing_usable(source: str, model: str, survey: Survey) -> str:
    if survey.images:
        return (
            f"{source}: only images, and {model} does not take single frames; name a causal model"
        )
    lost = survey.broken
    why = f"; the first: {lost[0]}" if lost else ""
    return f"{source}: none of {counted(survey.looked_at, 'sample')} can be opened{why}"


def _expected(survey: Survey, shapes: Shapes, facts: Facts) -> tuple[float, float]:
    """Return the number of clips and the bytes of their cells to expect of the whole source."""
    clips = size = 0.0
    for one in survey.seen:
        fitting = [bucket for bucket in shapes.buckets if (bucket.frames == 1) == one.is_image]
        if not fitting:
            continue
        sizes = {(bucket.height, bucket.width): bucket for bucket in fitting}
        bucket = sizes[best_size((one.facts.height, one.facts.width), list(sizes))]
        count = 1.0 if one.is_image else clips_of(one, bucket.frames, shapes.fps)
        clips += count
        size += count * cell_bytes(facts, bucket)
    scale = survey.samples / survey.looked_at
    return clips * scale, size * scale


def _found(survey: Survey, shapes: Shapes, clips: float, size: float) -> Iterator[str]:
    """Yield lines about a source."""
    about = "" if survey.is_exact else "about "
    yield labelled(
        "samples", f"{about}{survey.samples:,.0f} in {counted(len(survey.units), 'unit')}"
    )
    yield from (labelled("left aside", visible(note)) for note in survey.notes)
    ended = ", where the time budget ended" if survey.stopped else ""
    kinds = f"{counted(len(survey.videos), 'video')}, {counted(len(survey.images), 'image')}"
    yield labelled("looked at", f"{survey.looked_at} of them{ended}: {kinds} opened")
    sizes = Counter(f"{one.facts.height}×{one.facts.width}" for one in survey.seen)
    yield labelled("sizes", f"height × width: {_most(sizes)}")
    if videos := survey.videos:
        yield labelled(
            "rates", f"{_most(Counter(f'{one.facts.fps or 0:.4g}' for one in videos))} fps"
        )
        lengths = [one.length_s for one in videos if one.length_s is not None]
        if lengths:
            least, middle, most = (format_duration(f(lengths)) for f in (min, median, max))
            total = format_duration(
                fmean(lengths) * survey.samples * len(videos) / survey.looked_at
            )
            text = f"{least} to {most}, median {middle}; about {total} in all"
            yield labelled("lengths", text)
        yield labelled("codecs", _most(Counter(str(one.facts.codec) for one in videos)))
    captions = sum(one.has_caption for one in survey.seen)
    yield labelled("captions", f"{captions} of {len(survey.seen)}")
    yield labelled("expected", f"about {clips:,.0f} clips, {format_bytes(size)} of cells")
    frames = shapes.buckets[0].frames
    short = sum(not clips_of(one, frames, shapes.fps) for one in survey.videos)
    if short:
        yield labelled("short", f"{short} of {counted(len(survey.videos), 'video')} fill no clip")
    if broken := survey.broken:
        yield labelled("broken", f"{len(broken)} of {survey.looked_at}, which a job quarantines:")
        yield from first_of(len(broken), [*map(str, broken[:_SHOWN])], labelled("", ""))


def _most(counts: Counter[str]) -> str:
    shown = ", ".join(f"{value} ({count})" for value, count in counts.most_common(_SHOWN))
    more = len(counts) - _SHOWN
    return shown + (f", {more} more" if more > 0 else "")
