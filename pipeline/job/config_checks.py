"""Rules between settings, and between settings and models: each broken one is a `Fault`.

Only this module of the configuration knows `vidtok`, and imports it when a check needs it: a typing
error in the file is answered without waiting for torch.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.config.job import ClipConfig, JobConfig, TokenizerSpec
from pipeline.errors import redacted

if TYPE_CHECKING:
    from vidtok.config import TokenizerConfig
from collections.abc import Sequence

from pipeline.config.loading import Fault, load
from pipeline.tokenizers.checks import clip_faults, tokenizer_faults


def check_job(config: JobConfig) -> list[Fault]:
    """Return what is wrong with a configuration whose fields are right one by one."""
    faults = [*_names(config), *_slice(config), *_shapes(config.clip), *_decoding_back(config)]
    for n, uri in enumerate(config.source.uri):
        faults += _secrets(f"source.uri.{n}", uri)
    faults += _secrets("source.lists.root", config.source.lists.root or "")
    faults += _secrets("output.uri", config.output.uri)
    for n, spec in enumerate(config.tokenizers):
        faults += _model(config, spec, f"tokenizers.{n}")
    return faults


def _secrets(field: str, uri: str) -> Iterator[Fault]:
    """A URI is written into log, manifest and rows: it may hold no password and no signature."""
    if (shown := redacted(uri)) != uri:
        fix = "give them by the environment, or in storage_options, which are never written"
        yield Fault(field, shown, "holds credentials, and URIs are written into the output", fix)


def _names(config: JobConfig) -> Iterator[Fault]:
    """Column names: of each tokenizer `N`, `N_shape` and, if stored, `N_logvar`."""
    from pipeline.dataset.schema import clip_schema

    owner = dict.fromkeys(clip_schema([]).names, "every row")
    for n, spec in enumerate(config.tokenizers):
        field = f"tokenizers.{n}.name"
        for column in (spec.name, f"{spec.name}_shape", *[f"{spec.name}_logvar"] * spec.logvar):
            if column in owner:
                rule = f"{owner[column]} has a column {column} already"
                yield Fault(field, spec.name, rule, "choose another name")
                break
            owner[column] = field


def _slice(config: JobConfig) -> Iterator[Fault]:
    if config.slice is not None:
        index, of = map(int, config.slice.split("/"))
        if index >= of:
            yield Fault("slice", config.slice, f"slices count from 0: the last of {of} is {of - 1}")


def _shapes(clip: ClipConfig) -> Iterator[Fault]:
    """Either frames, height and width, or buckets that differ; of a whole video no frames."""
    given = {"frames": clip.frames, "height": clip.height, "width": clip.width}
    for name, value in given.items():
        if clip.buckets and value is not None:
            rule = "clip.buckets says so for each shape"
            yield Fault(f"clip.{name}", value, rule, "leave one of the two out")
        elif not clip.buckets and value is None and not (clip.whole and name == "frames"):
            yield Fault(f"clip.{name}", rule="is required", fix="give it or clip.buckets")
    if clip.whole and clip.frames is not None and not clip.buckets:
        yield Fault("clip.frames", clip.frames, "clip.whole takes all", "leave one of them out")
    for n, bucket in enumerate(clip.buckets):
        if clip.whole and bucket.frames is not None:
            where = f"clip.buckets.{n}.frames"
            yield Fault(where, bucket.frames, "clip.whole takes all", "leave one of them out")
        elif not clip.whole and bucket.frames is None:
            yield Fault(f"clip.buckets.{n}.frames", rule="is required", fix="give it a value")
        if (first := clip.buckets.index(bucket)) < n:
            rule = f"is clip.buckets.{first} again"
            yield Fault(f"clip.buckets.{n}", rule=rule, fix="leave one of them out")


def _decoding_back(config: JobConfig) -> Iterator[Fault]:
    one_in = config.tokenize.decode_back_one_in
    if config.clip.whole and one_in is not None:
        rule = "clips that are whole videos are not decoded back"
        yield Fault("tokenize.decode_back_one_in", one_in, rule, "leave it out")


def _model(config: JobConfig, spec: TokenizerSpec, field: str) -> Iterator[Fault]:
    from vidtok.presets import PRESETS

    yield from tokenizer_faults(spec.model, spec.weights, field)
    if spec.model not in PRESETS:
        return
    model = PRESETS[spec.model]
    if model.regularizer == "fsq":
        if spec.logvar:
            yield Fault(f"{field}.logvar", spec.logvar, f"{spec.model} is FSQ and has none")
        if spec.dtype is not None:
            rule = f"{spec.model} is FSQ: the codebook decides how indices are stored"
            yield Fault(f"{field}.dtype", spec.dtype, rule, "leave it out")
    yield from _clips(config.clip, model)


def _clips(clip: ClipConfig, model: "TokenizerConfig") -> Iterator[Fault]:
    frames = clip.frames
    if clip.whole:
        if not model.time_rule.chunkable:
            rule = f"{model.name} takes no video piece by piece; only v1.1 models do"
            yield Fault("clip.whole", "true", rule, "choose one, or cut clips of so many frames")
            return
        if clip.chunk_frames % model.temporal_factor:
            rule = f"{model.name} takes a multiple of {model.temporal_factor}"
            yield Fault("clip.chunk_frames", clip.chunk_frames, rule)
        frames = 1  # of which any number will do
    for n, bucket in enumerate(clip.buckets):
        length = frames if clip.whole else bucket.frames
        if length is not None:
            where = f"clip.buckets.{n}"
            yield from clip_faults(model, length, bucket.height, bucket.width, where)
    if not clip.buckets and frames and clip.height and clip.width:
        yield from clip_faults(model, frames, clip.height, clip.width)


def load_config(path: str, overrides: Sequence[str] = ()) -> JobConfig:
    """Read, merge, validate and cross-check a job's configuration.

    Args:
        path: a YAML file.
        overrides: `dotted.key=value`; list items by number, values in YAML.

    Raises:
        ConfigError: one line per fault.
    """
    return load(path, overrides, JobConfig, check_job)
