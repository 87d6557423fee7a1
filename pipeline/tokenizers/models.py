"""Models from a tokenizer's settings, the same on the driver and on every node."""

import hashlib
from pathlib import Path
from typing import Final

import torch
from torch import nn

import vidtok
from pipeline.config.job import HUB, RANDOM, JobConfig, TokenizerSpec
from pipeline.dataset.metadata import Dataset
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError
from pipeline.tokenizers.checks import tokenizer_faults
from pipeline.tokenizers.encoder import ClipEncoder

DTYPES: Final = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of the arithmetic, by name of a precision."""

UNTRAINED_SEED: Final = 0
"""Seed of the initialisation with `weights: random`."""


def absolute_path(weights: str | None) -> str | None:
    """Return a file of weights as an absolute path, which every process opens alike."""
    return weights if weights in (None, HUB, RANDOM) else str(Path(weights).resolve())


def is_untrained(spec: TokenizerSpec) -> bool:
    """Return whether a tokenizer runs on a seeded initialisation instead of weights."""
    return spec.weights == RANDOM


def open_model(spec: TokenizerSpec) -> vidtok.Tokenizer:
    """Return a tokenizer's model in float32 on the CPU.

    Raises:
        ConfigError: the weights do not exist or belong to another model.
    """
    for fault in tokenizer_faults(spec.model, spec.weights, f"tokenizer {spec.name}: "):
        raise ConfigError(str(fault))
    if is_untrained(spec):
        return vidtok.build(spec.model, seed=UNTRAINED_SEED)
    source = spec.model if spec.weights is None or spec.weights == HUB else spec.weights
    try:
        return vidtok.load(source, config=spec.model)
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(f"tokenizer {spec.name}: weights = {spec.weights}: {error}") from error


def open_same_model(spec: TokenizerSpec, weights: str) -> vidtok.Tokenizer:
    """Return a tokenizer's model as `open_model`, if its weights have this `weights_digest`.

    Raises:
        ConfigError: the weights do not exist, or are other ones.
    """
    model = open_model(spec)
    if (found := weights_digest(model)) != weights:
        raise ConfigError(
            f"tokenizer {spec.name}: weights = {spec.weights}: digest {found}, but the job or the"
            f" dataset was made with {weights}; bring the same file to every node"
        )
    return model


def job_config(dataset: Dataset) -> JobConfig:
    """Return the settings of the run that made a dataset, without its blanked credentials.

    Raises:
        ConfigError: `dataset.json` does not hold valid settings of a job; a sibling has none.
    """
    if "embedders" in dataset.identity:
        raise ConfigError("dataset.json: made by embed from another dataset: it has no videos")
    values = {**dataset.config}
    try:
        for section in ("source", "output"):
            values[section] = {**values[section], "storage_options": {}}
        return JobConfig.model_validate(values)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"dataset.json: config: not the settings of a job: {error}") from error


def open_models(dataset: Dataset) -> dict[str, vidtok.Tokenizer]:
    """Return a dataset's models by column, in float32 on the CPU.

    Raises:
        ConfigError: the weights do not exist, or are not those that made the dataset.
    """
    made_with = dataset.identity["tokenizers"]
    return {
        spec.name: open_same_model(spec, made_with[spec.name]["weights"])
        for spec in job_config(dataset).tokenizers
    }


def weights_digest(model: nn.Module) -> str:
    """Return 32 hex digits of a model's tensors, whatever file they came from.

    The digest is of float32 values, so weights in half precision have one digest however they were
    loaded.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def open_encoder(
    spec: TokenizerSpec, column: TokenizerColumn, *, weights: str, device: str
) -> ClipEncoder:
    """Return a tokenizer that is ready to encode on a node.

    Args:
        spec: settings of the tokenizer.
        column: column that it writes.
        weights: `weights_digest` of the driver's model.
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: this node has other weights under the same path.
    """
    model = open_same_model(spec, weights).to(device=device, dtype=DTYPES[spec.precision])
    # A CPU gains nothing from a batch, and filling one up costs time.
    return ClipEncoder(model, column, batch=1 if device == "cpu" else spec.batch, device=device)
