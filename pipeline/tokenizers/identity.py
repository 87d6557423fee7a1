"""The fingerprint of a dataset: a hash of all settings that change the tokens, stored beside them.

It covers the clip rule, the preprocessing, and for each tokenizer its facts, configuration,
weights, arithmetic and the storage of its cells. It does not cover batch size, devices and numbers
of actors, which change nothing or the last bits of a float; in half precision, two devices also
give some different tokens. A job computes in the precision that is named here: it does not start on
CPUs that are slower in it. It does not cover the sources, so that a dataset can grow.
"""

from collections.abc import Mapping
from typing import Any, Final

from pipeline.config.job import ClipConfig, JobConfig, TokenizerSpec
from pipeline.dataset.metadata import Dataset, fingerprint_of
from pipeline.dataset.schema import TokenizerColumn, index_dtype
from pipeline.errors import StoreError, one_line
from pipeline.tokenizers.facts import COMPILER, Description, Facts

PREPROCESSING: Final = 1
"""Version of decoding, resizing and normalising; every change that moves a pixel raises it."""


def identity(
    config: JobConfig,
    described: Mapping[str, Description],
    sounds: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return all settings that change the tokens of a job, as JSON-like values.

    Args:
        config: the job.
        described: description of each tokenizer, by its name.
        sounds: identity of each encoder of sound, by its name.
    """
    audio = {} if config.audio is None else {"audio": config.audio.identity()}
    if sounds:
        audio["audio"]["encoders"] = {name: dict(made) for name, made in sounds.items()}
    return {
        "preprocessing": PREPROCESSING,
        "clip": config.clip.identity(),
        **audio,
        **({"tracks": [each.model_dump() for each in config.tracks]} if config.tracks else {}),
        "tokenizers": {
            spec.name: _tokenizer(spec, described[spec.name]) for spec in config.tokenizers
        },
    }


def tokenizer_column(
    spec: TokenizerSpec, described: Description, clip: ClipConfig
) -> TokenizerColumn:
    """Return a tokenizer's column; its fingerprint also covers the clip rule."""
    whole = {
        "preprocessing": PREPROCESSING,
        "clip": clip.identity(),
        **_tokenizer(spec, described),
    }
    facts = described.facts
    size = facts.codebook_size
    return TokenizerColumn(
        name=spec.name,
        kind=facts.kind,
        dtype=index_dtype(size) if size is not None else spec.dtype or "float16",
        axes=("t", "h", "w") if facts.kind == "indices" else ("c", "t", "h", "w"),
        model=spec.model,
        fingerprint=fingerprint_of(whole),
        logvar=spec.logvar,
        codebook_size=size,
        normalize=facts.normalize,
        bits=spec.stored_bits if facts.kind == "latents" else None,
        causal_factor=facts.temporal_factor * spec.every if facts.causal else None,
        scale=spec.divisor,
        every=spec.every,
    )


def _tokenizer(spec: TokenizerSpec, described: Description) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": spec.model,
        "facts": described.facts.to_dict(),
        "config": dict(described.config),
        "weights": described.digest.weights,
        "precision": spec.precision,
    }
    if described.facts.kind == "latents":
        values["dtype"] = spec.dtype or "float16"
        values["logvar"] = spec.logvar
        if spec.stored_bits is not None:
            values["bits"] = spec.stored_bits
    if spec.compile:
        values["compile"] = COMPILER
    if spec.hold is not None:
        values["hold"] = spec.hold.model_dump()
    if spec.channels is not None:
        values["channels"] = spec.channels.model_dump() | {"order": list(described.channel_order)}
    input_rule = {"scale": spec.divisor, "every": spec.every}
    return values | {name: value for name, value in input_rule.items() if value != 1}


def expected_shape(
    dataset: Dataset, column: TokenizerColumn, bucket: str, num_frames: int
) -> list[int]:
    """Return the shape of a clip's cells in a bucket, as the column `N_shape` holds it.

    Args:
        dataset: the dataset of the clip.
        column: column of the tokenizer.
        bucket: name of the bucket.
        num_frames: frames of the clip; used only in the bucket of whole videos.

    Raises:
        StoreError: `dataset.json` or the bucket's name does not determine it.
    """
    where = f"dataset.json: identity.tokenizers.{column.name}.facts"
    try:
        facts = Facts.from_dict(dataset.identity["tokenizers"][column.name]["facts"])
        length, *size = bucket.split("x")
        frames = num_frames if length == "all" else int(length)
        height, width = map(int, size)
        shape = facts.latent_shape(*column.input_shape(frames, height, width))
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        why = one_line(error)
        raise StoreError(f"{where} and bucket {bucket!r}: {why}; restore them") from error
    return list(shape if "c" in column.axes else shape[1:])
