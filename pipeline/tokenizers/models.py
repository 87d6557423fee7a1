"""Tokenizers from their settings, the same on the driver and on every node."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config.job import JobConfig, Tile, TokenizerSpec
from pipeline.dataset.metadata import Dataset, Digest
from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError, message_of, one_line
from pipeline.tokenizers import probe
from pipeline.tokenizers.bits_by_scene import BitsByScene
from pipeline.tokenizers.checks import is_foreign, registered, tokenizer_faults
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.facts import Description
from pipeline.tokenizers.lanes import lane_to
from pipeline.tokenizers.protocol import VideoTokenizer
from vidtok.digest import tensors_digest, weights_digest

if TYPE_CHECKING:
    from pipeline.tokenizers.vidtok_adapter import VidTok
    from vidtok import ChannelOrder

DTYPES: Final = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of the arithmetic, by name of a precision."""


def describe(tokenizer: VideoTokenizer, spec: TokenizerSpec) -> Description:
    """Return what identifies a tokenizer in float32 on the CPU."""
    channels = channels_of(tokenizer, spec)
    order = () if channels is None else channels.order
    return Description(tokenizer.facts, tokenizer.config, _digest(tokenizer, spec), order)


def _digest(tokenizer: VideoTokenizer, spec: TokenizerSpec) -> Digest:
    values = probe.probe_values(tokenizer) if is_foreign(spec) else ()
    weights = weights_digest(tokenizer.module().state_dict())
    if (channels := channels_of(tokenizer, spec)) is not None:
        weights += f"+{_channels_digest(channels)}"
    return Digest(weights, values)


def _channels_digest(channels: "ChannelOrder") -> str:
    tensors: dict[str, NDArray[Any]] = {"order": np.array(channels.order)}
    for k, fill in channels.fills.items():
        tensors |= {f"{k}.weight": fill.weight.numpy(), f"{k}.bias": fill.bias.numpy()}
    return tensors_digest(tensors)


def channels_of(tokenizer: VideoTokenizer, spec: TokenizerSpec) -> "ChannelOrder | None":
    """Return the order of channels of a model of this package; None if `channels` is not set.

    Raises:
        ConfigError: there is no file of channels beside the weights.
    """
    if spec.channels is None:
        return None
    if (channels := cast("VidTok", tokenizer).channels) is None:
        raise ConfigError(
            f"tokenizer {spec.name}: channels: there is no channels file beside the weights of"
            f" {spec.model}; write one with `python -m vidtok channels`, or leave channels out"
        )
    return channels


def open_tokenizer(spec: TokenizerSpec) -> VideoTokenizer:
    """Return a tokenizer in float32 on the CPU.

    Raises:
        ConfigError: the weights do not exist or belong to another model, or a package is missing.
    """
    for fault in tokenizer_faults(spec.model, spec.weights, f"tokenizer {spec.name}: "):
        raise ConfigError(str(fault))
    package, colon, name = spec.model.partition(":")
    try:
        if not colon:
            from pipeline.tokenizers.vidtok_adapter import open_vidtok

            return open_vidtok(spec.model, spec.weights)
        if package == "diffusers":
            from pipeline.tokenizers.diffusers_adapter import open_diffusers

            return open_diffusers(name, spec.weights)
        tokenizer: VideoTokenizer = registered()[package].load()(name, spec.weights)
        return tokenizer
    except Exception as error:  # the packages and the Hub's client have their own classes
        message = message_of(error) or repr(error)
        raise ConfigError(f"tokenizer {spec.name}: weights = {spec.weights}: {message}") from error


def open_same_tokenizer(spec: TokenizerSpec, digest: Digest) -> VideoTokenizer:
    """Return a tokenizer as `open_tokenizer`, if it has this digest.

    Raises:
        ConfigError: the weights do not exist, or they or the library are other ones.
    """
    tokenizer = open_tokenizer(spec)
    found = _digest(tokenizer, spec)
    if found.weights != digest.weights:
        raise ConfigError(
            f"tokenizer {spec.name}: weights = {spec.weights}: digest {found.weights}, but the job"
            f" or the dataset was made with {digest.weights}; copy the same file to every node"
        )
    if how := digest.moved(found):
        raise ConfigError(
            f"tokenizer {spec.name}: model = {spec.model}: {how}: the library computes other"
            " numbers than where the job or the dataset was made; install that version"
        )
    return tokenizer


def job_config(dataset: Dataset) -> JobConfig:
    """Return the settings of the run that made a dataset, without its blanked credentials.

    Raises:
        ConfigError: `dataset.json` does not hold valid settings of a job; a sibling has none.
    """
    if "embedders" in dataset.identity:
        raise ConfigError(
            "dataset.json: the dataset was made by embed, so it has no videos; give the dataset"
            " that embed read"
        )
    values = {**dataset.config}
    try:
        for section in ("source", "output"):
            values[section] = {**values[section], "storage_options": {}}
        return JobConfig.model_validate(values)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"dataset.json: config: does not hold the settings of a job: {one_line(error)}; open"
            " the dataset with the release that wrote it, or restore the file from a copy"
        ) from error


def open_models(dataset: Dataset) -> dict[str, VideoTokenizer]:
    """Return a dataset's tokenizers by column, in float32 on the CPU.

    Raises:
        ConfigError: the weights do not exist, or are not those that made the dataset.
    """
    return {
        spec.name: open_same_tokenizer(spec, dataset.digest(spec.name))
        for spec in job_config(dataset).tokenizers
    }


def open_encoder(
    spec: TokenizerSpec,
    column: TokenizerColumn,
    *,
    digest: Digest,
    device: str,
    tile: Tile = None,
) -> ClipEncoder:
    """Return a tokenizer that is ready to encode on a node.

    Args:
        spec: settings of the tokenizer.
        column: column that it writes.
        digest: digest of the driver's tokenizer.
        device: `cpu` or `cuda`.
        tile: `tokenize.tile` of the job.

    Raises:
        ConfigError: this node has other weights under the same path, or another library.
    """
    return encoder_of(open_same_tokenizer(spec, digest), spec, column, device, tile)


def open_encoders(
    specs: Sequence[TokenizerSpec],
    columns: Sequence[TokenizerColumn],
    digests: Sequence[Digest],
    device: str,
    tile: Tile = None,
) -> list[ClipEncoder]:
    """Return tokenizers as `open_encoder`. Those of one model and precision share its network."""
    opened: dict[tuple[object, ...], VideoTokenizer] = {}
    encoders = []
    for spec, column, digest in zip(specs, columns, digests, strict=True):
        checked = spec.channels is not None  # with another digest
        network = spec.model, spec.weights, spec.precision, spec.compile, checked
        if network not in opened:
            opened[network] = open_same_tokenizer(spec, digest)
        encoders.append(encoder_of(opened[network], spec, column, device, tile))
    return encoders


def encoder_of(
    tokenizer: VideoTokenizer,
    spec: TokenizerSpec,
    column: TokenizerColumn,
    device: str,
    tile: Tile = None,
) -> ClipEncoder:
    """Return a tokenizer as encoder on a device, in the precision of its settings.

    A compiled encoder takes whole pictures.
    """
    tokenizer.module().to(device=device, dtype=DTYPES[spec.precision])
    if spec.compile and device != "cpu":  # a CPU computes the same up to rounding
        cast("VidTok", tokenizer).compile()  # the configuration's check refuses other tokenizers
    # A CPU gains nothing from a batch, and filling one up costs time.
    batch = 1 if device == "cpu" else spec.batch
    by_scene = BitsByScene.of(spec, tokenizer.facts, channels_of(tokenizer, spec))
    return ClipEncoder(
        tokenizer,
        column,
        batch=batch,
        lane=lane_to(device),
        by_scene=by_scene,
        tile=None if spec.compile else tile,
    )
