"""Rules between the settings of a job, and between settings and models.

No check imports torch, except those of models of other packages: an error in a file is reported at
once.
"""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from pipeline.config.embed import EmbedConfig
from pipeline.config.job import BucketConfig, ClipConfig, JobConfig
from pipeline.config.loading import Fault, load
from pipeline.errors import redacted
from pipeline.tokenizers.checks import (
    clip_faults,
    known_facts,
    tile_faults,
    tokenizer_faults,
    use_near,
)
from pipeline.tokenizers.facts import Facts


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
        *_sidecars(config),
        *_shapes(config.clip),
        *_shots(config.clip),
        *_windows(config.clip),
        *_held(config),
        *_filter(config.clip),
        *_packages(config.clip),
        *_decoding_back(config),
        *_sound(config),
        *_tracks(config),
    ]
    for n, uri in enumerate(config.source.uri):
        faults += _secrets(f"source.uri.{n}", uri)
    faults += _secrets("source.lists.root", config.source.lists.root or "")
    faults += _secrets("output.uri", config.output.uri)
    for n, spec in enumerate(config.tokenizers):
        faults += tokenizer_faults(spec.model, spec.weights, f"tokenizers.{n}.")
        if facts := known_facts(spec.model):
            faults += facts_faults(config, n, facts)
    return faults


def load_embed_config(path: str, overrides: Sequence[str] = ()) -> EmbedConfig:
    """Read and check the configuration of `embed`; arguments and errors as `load_config`."""
    return load(path, overrides, EmbedConfig, check_embedding)


def check_embedding(config: EmbedConfig) -> list[Fault]:
    """Return the rules broken by a configuration whose fields are valid one by one."""
    from pipeline.dataset.schema import clip_schema

    tails = ("", "_shape", "_ids")
    columns = [spec.name + tail for spec in config.embedders for tail in tails]
    columns += clip_schema([]).names
    twice = sorted({name for name in columns if columns.count(name) > 1})
    rule, fix = "two columns would have this name", "choose another name of an embedder"
    faults = [
        *(Fault("embedders", name, rule, fix) for name in twice),
        *_slice(config),
        *_secrets("from.uri", config.parent.uri),
        *_secrets("output.uri", config.output.uri),
    ]
    if config.parent.uri == config.output.uri:
        rule = "is also the dataset in from"
        faults.append(Fault("output.uri", config.output.uri, rule, "write to another output"))
    if find_spec("transformers") is None:
        rule, fix = "needs transformers", "pip install 'vidtok-pipeline[transformers]'"
        faults.append(Fault("embedders.0.model", config.embedders[0].model, rule, fix))
    return faults


def _secrets(field: str, uri: str) -> Iterator[Fault]:
    """Refuse a URI with a password or a signature: URIs are written into log, manifest and rows."""
    if (shown := redacted(uri)) != uri:
        rule = "contains credentials, and URIs are written into the output"
        fix = "pass them in the environment or in storage_options, which are never written"
        yield Fault(field, shown, rule, fix)


def _names(config: JobConfig) -> Iterator[Fault]:
    """Refuse column names that occur twice: `N`, `N_shape`, `N_logvar`, `N_scale`, `N_outside`."""
    from pipeline.dataset.schema import clip_schema
    from pipeline.dataset.side_columns import (
        clip_columns,
        sound_columns,
        token_columns,
        track_columns,
    )

    side = clip_columns(config.clip.identity())
    side += () if config.audio is None else sound_columns(config.audio.identity())
    owner = dict.fromkeys(clip_schema([], side).names, "every row")
    named = [
        (f"tracks.{n}.name", track.name, [column.name for column in track_columns([track.name])])
        for n, track in enumerate(config.tracks)
    ]
    for n, encoder in enumerate(config.audio.encoders if config.audio is not None else ()):
        named.append((f"audio.encoders.{n}.name", encoder.name, [encoder.name]))
    for n, spec in enumerate(config.tokenizers):
        also = {"shape": True, "logvar": spec.logvar, "scale": spec.stored_bits}
        columns = [spec.name, *(f"{spec.name}_{kind}" for kind, has in also.items() if has)]
        columns += [column.name for column in token_columns({spec.name: dict(spec)})]
        named.append((f"tokenizers.{n}.name", spec.name, columns))
    for field, name, columns in named:
        for column in columns:
            if column in owner:
                rule = f"{owner[column]} already has a column {column}"
                yield Fault(field, name, rule, "choose another name")
                break
            owner[column] = field


def _slice(config: JobConfig | EmbedConfig) -> Iterator[Fault]:
    if config.slice is not None:
        index, of = map(int, config.slice.split("/"))
        if not of:
            yield Fault("slice", config.slice, "has no parts", "give their number after the slash")
        elif index >= of:
            rule = f"slices are numbered from 0, so the last of {of} is {of - 1}"
            yield Fault("slice", config.slice, rule)


def _sidecars(config: JobConfig) -> Iterator[Fault]:
    """Refuse settings of sidecars if no source has any: rows of lists have columns instead."""
    from pipeline.sources.lists import is_list

    if all(map(is_list, config.source.uri)):
        columns = {"caption": "set source.lists.caption instead", "beside": "leave it out"}
        for name, fix in columns.items():
            if given := getattr(config.source, name):
                value = given if name == "caption" else None
                yield Fault(f"source.{name}", value, "rows of a list have no sidecars", fix)


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


def _filter(clip: ClipConfig) -> Iterator[Fault]:
    from pipeline.stages.clip_filter import FilterError, open_filter

    for name in ("measure", "filter"):
        if clip.whole and getattr(clip, name):
            rule = "clips that are whole videos are not measured or filtered"
            yield Fault(f"clip.{name}", rule=rule, fix="leave it out, or set clip.frames")
    try:
        open_filter(clip.identity())
    except FilterError as error:
        yield Fault("clip.filter", " ".join((clip.filter or "").split()), str(error))


def _packages(clip: ClipConfig) -> Iterator[Fault]:
    from pipeline.decode.packages import missing_packages

    for needed in missing_packages(clip.identity()):
        yield Fault(needed.field, needed.value, needed.rule, needed.fix)


def _all_frames(field: str, frames: int) -> Fault:
    return Fault(field, frames, "clip.whole takes all frames", "leave out one of the two")


def _shots(clip: ClipConfig) -> Iterator[Fault]:
    if clip.shots is not None and clip.whole:
        rule = "clips that are whole videos are not split into shots"
        yield Fault("clip.shots", rule=rule, fix="leave out clip.shots, or set clip.frames")


def _windows(clip: ClipConfig) -> Iterator[Fault]:
    """Require that distance, choice and rates of clips agree with the rest of the section."""
    rates = clip.fps if isinstance(clip.fps, list) else [clip.fps]
    twice = sorted({f"{fps or 'null'}" for fps in rates if rates.count(fps) > 1})
    if twice:
        yield Fault("clip.fps", ", ".join(twice), "occurs twice", "leave out one of them")
    if clip.whole:
        given = {
            "fps": isinstance(clip.fps, list),
            "stride_s": clip.stride_s is not None,
            "max_per_sample": clip.max_per_sample is not None,
            "every_bucket": clip.every_bucket,
        }
        for name in (name for name, is_given in given.items() if is_given):
            value = getattr(clip, name)
            fix = "give one rate" if name == "fps" else "leave out one of the two"
            yield Fault(f"clip.{name}", value, "clip.whole makes one clip of a sample", fix)
    if clip.every_bucket and len(clip.buckets) < 2:
        rule = "needs several shapes in clip.buckets"
        yield Fault("clip.every_bucket", "true", rule, "give them, or leave it out")
    if clip.choose != "even" and clip.max_per_sample is None:
        rule = "chooses among the clips of a sample only with clip.max_per_sample"
        yield Fault("clip.choose", clip.choose, rule, "give that too, or leave this out")
    slowest = min((fps for fps in rates if fps is not None), default=None)
    if clip.stride_s is not None and slowest is not None and clip.stride_s * slowest < 0.99:
        rule = f"is shorter than a frame at clip.fps = {slowest:g}"
        yield Fault("clip.stride_s", clip.stride_s, rule, f"give {1 / slowest:g} or more")


def _held(config: JobConfig) -> Iterator[Fault]:
    """Require room in the decoder process for the clips that are held until a sample ends."""
    clip = config.clip
    if clip.max_per_sample is None or clip.whole:
        return
    shapes: Sequence[ClipConfig | BucketConfig] = clip.buckets or [clip]
    sizes = [3 * (s.frames or 0) * (s.height or 0) * (s.width or 0) for s in shapes]
    rates = len(clip.fps) if isinstance(clip.fps, list) else 1
    held = clip.max_per_sample * rates * (sum(sizes) if clip.every_bucket else max(sizes))
    held_mb = (held * (4 if clip.resize == "float32" else 1)) >> 20
    if held_mb > config.decode.memory_mb // 2:
        rule = f"the decoder holds up to {held_mb} MiB of clips, and more than half of"
        rule += f" decode.memory_mb = {config.decode.memory_mb}"
        fix = f"set decode.memory_mb to {2 * held_mb} or more, or choose fewer clips"
        yield Fault("clip.max_per_sample", clip.max_per_sample, rule, fix)


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
    if config.audio.encoders:
        from pipeline.tokenizers.sound_encoders import sound_encoder_faults

        yield from sound_encoder_faults(config.audio)


def _tracks(config: JobConfig) -> Iterator[Fault]:
    from pipeline.sources.lists import is_list

    if config.tracks and config.clip.whole:
        rule = "tracks of clips that are whole videos are not stored"
        yield Fault("tracks", rule=rule, fix="leave out tracks, or set clip.frames")
    lists = any(map(is_list, config.source.uri))
    for n, track in enumerate(config.tracks):
        if lists and track.sidecar is not None:
            rule, fix = "rows of a list have no sidecars", "leave it out, and name columns in key"
            yield Fault(f"tracks.{n}.sidecar", track.sidecar, rule, fix)
        elif not lists and track.sidecar is None:
            yield Fault(f"tracks.{n}.sidecar", rule="is required for tars, files and folders")
        elif lists and not track.key:
            yield Fault(f"tracks.{n}.key", rule="is required for rows of a list")
        if (track.rate is None) == (track.times is None):
            rule = "needs either rate or times"
            yield Fault(f"tracks.{n}", rule=rule, fix="give one of the two")


def facts_faults(config: JobConfig, number: int, facts: Facts) -> Iterator[Fault]:
    """Yield the settings of a job that one of its tokenizers does not take."""
    spec, field = config.tokenizers[number], f"tokenizers.{number}"
    if spec.compile and ":" in spec.model:
        rule = "only models of this package are compiled"
        yield Fault(f"{field}.compile", "true", rule, "leave it out")
    tile = config.tokenize.tile
    yield from tile_faults(tile, spec.model, facts, "tokenize.tile")
    if spec.compile and isinstance(tile, int):
        rule = f"{field}.compile = true takes whole pictures"
        yield Fault("tokenize.tile", tile, rule, "set auto or null, or leave out compile")
    if spec.compile and config.clip.whole:
        rule = "chunks of whole videos have several shapes, and each would be compiled"
        yield Fault(f"{field}.compile", "true", rule, "leave it out")
    if spec.bits is not None and spec.dtype != "uint8":
        yield Fault(f"{field}.bits", spec.bits, "only dtype = uint8 has bits", "leave it out")
    if spec.logvar and spec.dtype == "uint8":
        rule = "dtype = uint8 stores no log-variance"
        yield Fault(f"{field}.logvar", spec.logvar, rule, "leave one of the two out")
    if spec.logvar and not facts.logvar:
        rule = f"{spec.model} has no log-variance"
        yield Fault(f"{field}.logvar", spec.logvar, rule, "leave it out")
    for name in ("hold", "channels"):
        if getattr(spec, name) is None:
            continue
        if not facts.levels:
            rule = f"{spec.model} is not FSQ, so it has no levels"
            yield Fault(f"{field}.{name}", rule=rule, fix="leave it out")
        if config.clip.whole:
            rule = "it decodes clips back, which clips that are whole videos cannot be"
            yield Fault(f"{field}.{name}", rule=rule, fix="leave it out, or set clip.frames")
    if spec.channels is not None and ":" in spec.model:
        rule = "only models of this package decode fewer channels"
        yield Fault(f"{field}.channels", rule=rule, fix="leave it out")
    if facts.kind == "indices" and spec.dtype is not None:
        rule = f"the codebook of {spec.model} decides the type of the indices"
        yield Fault(f"{field}.dtype", spec.dtype, rule, "leave it out")
    clip = config.clip
    if clip.whole:
        if not facts.chunkable:
            rule = f"{spec.model} cannot encode a video chunk by chunk; v1.1 models of VidTok can"
            yield Fault("clip.whole", "true", rule, "choose such a model, or set clip.frames")
            return
        if clip.chunk_frames % facts.temporal_factor:
            rule = f"{spec.model} takes a multiple of {facts.temporal_factor}"
            fix = use_near(clip.chunk_frames, facts.temporal_factor)
            yield Fault("clip.chunk_frames", clip.chunk_frames, rule, fix)
    shapes: dict[str, ClipConfig | BucketConfig] = {"clip": clip}
    if clip.buckets:
        shapes = {f"clip.buckets.{n}": bucket for n, bucket in enumerate(clip.buckets)}
    for where, shape in shapes.items():
        # 1 is valid for every model that encodes chunks, so only the size is checked.
        frames = 1 if clip.whole else shape.frames
        if frames and shape.height and shape.width:
            size = (frames, shape.height, shape.width)
            views = {"scale": spec.divisor, "every": spec.every}
            yield from clip_faults(facts, spec.model, *size, where, **views)
