"""Rules between the settings of a job, and between settings and models.

`vidtok` is imported inside the checks that need it, so that a typing error in a file is reported
without a wait for torch.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.config.job import ClipConfig, JobConfig, TokenizerSpec
from pipeline.config.loading import Fault, load
from pipeline.errors import redacted
from pipeline.tokenizers.checks import clip_faults, tokenizer_faults

if TYPE_CHECKING:
    from vidtok.config import TokenizerConfig


def load_config(path: str, overrides: Sequence[str] = ()) -> JobConfig:
    """Read, merge, validate and cross-check the configuration of a job.

    Args:
        path: a YAML file.
        overrides: `dotted.key=value`, with the value in YAML. A number selects an item of a list.

    Raises:
        ConfigError: the configuration is wrong; the text has one line per error.
    """
    return load(path, overrides, JobConfig, check_job)


def check_job(config: JobConfig) -> list[Fault]:
    """Return the rules broken by a configuration whose fields are valid one by one."""
    faults = [
        *_names(config),
        *_slice(config),
        *_shapes(config.clip),
        *_decoding_back(config),
        *_sound(config),
        *_tracks(config),
    ]
    for n, uri in enumerate(config.source.uri):
        faults += _secrets(f"source.uri.{n}", uri)
    faults += _secrets("source.lists.root", config.source.lists.root or "")
    faults += _secrets("output.uri", config.output.uri)
    for n, spec in enumerate(config.tokenizers):
        faults += _model(config, spec, f"tokenizers.{n}")
    return faults


def _secrets(field: str, uri: str) -> Iterator[Fault]:
    """Refuse a URI with a password or a signature: URIs are written into log, manifest and rows."""
    if (shown := redacted(uri)) != uri:
        rule = "contains credentials, and URIs are written into the output"
        fix = "pass them in the environment or in storage_options, which are never written"
        yield Fault(field, shown, rule, fix)


def _names(config: JobConfig) -> Iterator[Fault]:
    """Refuse column names that occur twice: `N`, `N_shape` and `N_logvar` of each tokenizer."""
    from pipeline.dataset.schema import clip_schema, sound_columns, track_columns

    side = () if config.audio is None else sound_columns(config.audio.identity())
    owner = dict.fromkeys(clip_schema([], side).names, "every row")
    named = [
        (f"tracks.{n}.name", track.name, [column.name for column in track_columns([track.name])])
        for n, track in enumerate(config.tracks)
    ]
    for n, spec in enumerate(config.tokenizers):
        columns = [spec.name, f"{spec.name}_shape", *[f"{spec.name}_logvar"] * spec.logvar]
        named.append((f"tokenizers.{n}.name", spec.name, columns))
    for field, name, columns in named:
        for column in columns:
            if column in owner:
                rule = f"{owner[column]} already has a column {column}"
                yield Fault(field, name, rule, "choose another name")
                break
            owner[column] = field


def _slice(config: JobConfig) -> Iterator[Fault]:
    if config.slice is not None:
        index, of = map(int, config.slice.split("/"))
        if index >= of:
            rule = f"slices are numbered from 0, so the last of {of} is {of - 1}"
            yield Fault("slice", config.slice, rule)


def _shapes(clip: ClipConfig) -> Iterator[Fault]:
    """Require either frames, height and width, or distinct buckets; no frames for whole videos."""
    given = {"frames": clip.frames, "height": clip.height, "width": clip.width}
    for name, value in given.items():
        if clip.buckets and value is not None:
            rule = "clip.buckets sets it for each shape"
            yield Fault(f"clip.{name}", value, rule, "leave out one of the two")
        elif not clip.buckets and value is None and not (clip.whole and name == "frames"):
            yield Fault(f"clip.{name}", rule="is required", fix="give it, or give clip.buckets")
    if clip.whole and clip.frames is not None and not clip.buckets:
        yield _all_frames("clip.frames", clip.frames)
    for n, bucket in enumerate(clip.buckets):
        field = f"clip.buckets.{n}.frames"
        if clip.whole and bucket.frames is not None:
            yield _all_frames(field, bucket.frames)
        elif not clip.whole and bucket.frames is None:
            yield Fault(field, rule="is required", fix="give it a value")
        if (first := clip.buckets.index(bucket)) < n:
            rule = f"is the same as clip.buckets.{first}"
            yield Fault(f"clip.buckets.{n}", rule=rule, fix="leave out one of them")


def _all_frames(field: str, frames: int) -> Fault:
    return Fault(field, frames, "clip.whole takes all frames", "leave out one of the two")


def _decoding_back(config: JobConfig) -> Iterator[Fault]:
    one_in = config.tokenize.decode_back_one_in
    if config.clip.whole and one_in is not None:
        rule = "clips that are whole videos cannot be decoded back"
        yield Fault("tokenize.decode_back_one_in", one_in, rule, "leave it out")


def _sound(config: JobConfig) -> Iterator[Fault]:
    if config.audio is None:
        return
    if config.clip.whole:
        rule = "the sound of clips that are whole videos is not stored"
        yield Fault("audio", rule=rule, fix="leave out audio, or set clip.frames")
    rates = (8000, 12_000, 16_000, 24_000, 48_000)
    if config.audio.codec == "opus" and config.audio.rate not in rates:
        rule = f"opus takes {', '.join(map(str, rates))}"
        yield Fault("audio.rate", config.audio.rate, rule)


def _tracks(config: JobConfig) -> Iterator[Fault]:
    from pipeline.sources.lists import is_list

    if config.tracks and config.clip.whole:
        rule = "tracks of clips that are whole videos are not stored"
        yield Fault("tracks", rule=rule, fix="leave out tracks, or set clip.frames")
    if config.tracks and any(map(is_list, config.source.uri)):
        rule = "rows of a list have no sidecars"
        yield Fault("tracks", rule=rule, fix="leave out tracks, or give tars, files or folders")
    for n, track in enumerate(config.tracks):
        if (track.rate is None) == (track.times is None):
            rule = "needs either rate or times"
            yield Fault(f"tracks.{n}", rule=rule, fix="give one of the two")


def _model(config: JobConfig, spec: TokenizerSpec, field: str) -> Iterator[Fault]:
    from vidtok.presets import PRESETS

    yield from tokenizer_faults(spec.model, spec.weights, f"{field}.")
    if spec.model not in PRESETS:
        return
    model = PRESETS[spec.model]
    if model.regularizer == "fsq":
        if spec.logvar:
            rule = f"{spec.model} is FSQ and has no log-variance"
            yield Fault(f"{field}.logvar", spec.logvar, rule, "leave it out")
        if spec.dtype is not None:
            rule = f"{spec.model} is FSQ, and its codebook decides the type of the indices"
            yield Fault(f"{field}.dtype", spec.dtype, rule, "leave it out")
    yield from _clips(config.clip, model)


def _clips(clip: ClipConfig, model: "TokenizerConfig") -> Iterator[Fault]:
    frames = clip.frames
    if clip.whole:
        if not model.time_rule.chunkable:
            rule = f"{model.name} cannot encode a video chunk by chunk; v1.1 models can"
            yield Fault("clip.whole", "true", rule, "choose such a model, or set clip.frames")
            return
        if clip.chunk_frames % model.temporal_factor:
            rule = f"{model.name} takes a multiple of {model.temporal_factor}"
            yield Fault("clip.chunk_frames", clip.chunk_frames, rule)
        frames = 1  # valid for every model that encodes chunks, so only the size is checked
    for n, bucket in enumerate(clip.buckets):
        length = frames if clip.whole else bucket.frames
        if length is not None:
            where = f"clip.buckets.{n}"
            yield from clip_faults(model, length, bucket.height, bucket.width, where)
    if not clip.buckets and frames and clip.height and clip.width:
        yield from clip_faults(model, frames, clip.height, clip.width)
