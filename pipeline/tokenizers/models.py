"""From a tokenizer's settings to its model, the same on the driver and on every node."""

import hashlib
from typing import Final

import torch
from torch import nn

import vidtok
from pipeline.config.job import TokenizerSpec
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError
from pipeline.tokenizers.encoder import ClipEncoder

DTYPES: Final = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Arithmetic by the name of a precision."""


HUB: Final = "hub"


UNTRAINED_SEED: Final = 0
"""Of the initialisation where the package has no weights: reproducible, and worth nothing."""


def is_untrained(spec: TokenizerSpec) -> bool:
    """Return whether a tokenizer runs on a seeded initialisation instead of weights."""
    return spec.weights is None and vidtok.bundled_weights(spec.model) is None


def open_model(spec: TokenizerSpec) -> vidtok.Tokenizer:
    """Return a tokenizer's model in float32 on the CPU.

    Raises:
        ConfigError: the weights are not there or are those of another model.
    """
    if is_untrained(spec):
        return vidtok.build(spec.model, seed=UNTRAINED_SEED)
    source = spec.model if spec.weights is None or spec.weights == HUB else spec.weights
    try:
        return vidtok.load(source, config=spec.model)
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(f"tokenizer {spec.name}: weights = {spec.weights}: {error}") from error


def weights_digest(model: nn.Module) -> str:
    """Return 32 hex digits of a model's tensors, whatever file they came from.

    In float32, so that weights stored in half precision have one digest however they were loaded.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def open_encoder(
    spec: TokenizerSpec, column: TokenizerColumn, *, weights: str, device: str
) -> ClipEncoder:
    """Return a tokenizer ready for work on a node.

    Args:
        spec: its settings.
        column: what it writes.
        weights: `weights_digest` of the driver's model.
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: this node has other weights under the same path.
    """
    model = open_model(spec)
    if (found := weights_digest(model)) != weights:
        raise ConfigError(
            f"tokenizer {spec.name}: weights = {spec.weights}: this node has {found}, the driver"
            f" {weights}; bring the same file to every node"
        )
    model = model.to(device=device, dtype=DTYPES[spec.precision])
    # On a CPU a batch gains nothing, and filling one up costs its time.
    return ClipEncoder(model, column, batch=1 if device == "cpu" else spec.batch, device=device)
