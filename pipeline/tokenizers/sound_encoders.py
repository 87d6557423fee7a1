"""Encoders of sound of transformers and diffusers: a clip's waveform in, codes or latents out.

Each clip is encoded alone, so its cells do not depend on the clips beside it. What is stored is
what the library's `encode` gives for the whole waveform of the clip: codes `[q, t]`, or the mean of
the posterior `[C, t]`, not normalised.
"""

import hashlib
import importlib
import importlib.util
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from pipeline.config.job import AudioConfig, SoundEncoderSpec
from pipeline.config.loading import Fault
from pipeline.dataset.schema import index_dtype
from pipeline.dataset.side_columns import SideColumn
from pipeline.decode.sound_stream import decode_sound
from pipeline.errors import ConfigError, message_of
from pipeline.tokenizers.tensor_faults import other_tensors
from vidtok.digest import weights_digest

_log = logging.getLogger(__name__)


def _encodec(model: Any, waveform: Tensor) -> Tensor:
    if model.config.normalize or model.config.chunk_length:
        raise ValueError(
            "the encoder scales or chunks its input, and a dataset does not store the scales"
        )
    codes: Tensor = model.encode(waveform, bandwidth=max(model.config.target_bandwidths))[0]
    return codes[0, 0]


CLASSES: Final[Mapping[str, Callable[[Any, Tensor], Tensor]]] = {
    "transformers:EncodecModel": _encodec,
    "transformers:DacModel": lambda model, x: model.encode(x).audio_codes[0],
    "transformers:MimiModel": lambda model, x: model.encode(x).audio_codes[0],
    "diffusers:AutoencoderOobleck": lambda model, x: model.encode(x).latent_dist.mode()[0],
}
"""Supported classes; each function returns the cells `[rows, t]` of a waveform `[1, channels, n]`.
EnCodec uses its highest bandwidth, the others all their codebooks."""

_NOT_IDENTITY: Final = (
    *("_name_or_path", "transformers_version", "_diffusers_version", "architectures"),
    *("dtype", "torch_dtype"),
)
"""Entries of a configuration that change no cell."""


class SoundEncoder:
    """One encoder, in float32.

    Args:
        model: model of one of `CLASSES`, in eval mode.
        name: name of its class there.

    Attributes:
        model: the same.
        rate: number of samples per second that it takes.
        channels: number of channels that it takes.
        codebook_size: number of codes of a codebook; None of latents.
        rows: number of codebooks or of latent channels.
    """

    def __init__(self, model: Any, name: str) -> None:
        self.model = model
        self._call = CLASSES[name]
        self.rate = int(model.config.sampling_rate)
        self.channels = int(getattr(model.config, "audio_channels", 1))
        size = getattr(model.config, "codebook_size", None)
        self.codebook_size: int | None = None if size is None else int(size)
        self.rows = len(self.encode(torch.zeros(self.channels, self.rate // 2)))

    @torch.inference_mode()
    def encode(self, waveform: Tensor) -> Tensor:
        """Return the cells `[rows, t]` of a waveform `[channels, n]` in [-1, 1], on the CPU."""
        device = next(self.model.parameters()).device
        return self._call(self.model, waveform[None].to(device)).cpu()

    def cells(self, stream: bytes | None, column: SideColumn) -> bytes | None:
        """Return the cells of a clip's sound as they are stored; None for no sound.

        Args:
            stream: value of the column `audio`.
            column: column of the encoder.
        """
        if stream is None:
            return None
        made = self.encode(torch.from_numpy(decode_sound(stream)))
        if made.is_floating_point() and not torch.isfinite(made).all():
            _log.warning("%s: NaN or infinity among the latents of a clip's sound", column.name)
            return None
        return made.numpy().astype(np.dtype(str(column.settings["dtype"]))).tobytes()

    def identity(self, model: str) -> dict[str, Any]:
        """Return all that decides its cells, JSON-like.

        Args:
            model: `model` of its settings.
        """
        config = self.model.config
        values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
        kept = {name: value for name, value in values.items() if name not in _NOT_IDENTITY}
        text = json.dumps(kept, sort_keys=True, default=str)
        size = self.codebook_size
        return {
            "model": model,
            "config": hashlib.sha256(text.encode()).hexdigest()[:16],
            "weights": weights_digest(self.model.state_dict()),
            "rows": self.rows,
            "dtype": "float32" if size is None else index_dtype(size),
        }


def sound_encoder_faults(audio: AudioConfig) -> Iterator[Fault]:
    """Yield the errors in the names and weights of a job's encoders of sound."""
    for n, spec in enumerate(audio.encoders):
        field, package = f"audio.encoders.{n}", spec.model.partition(":")[0]
        if spec.model not in CLASSES:
            fix = f"use {', '.join(CLASSES)}"
            yield Fault(f"{field}.model", spec.model, "no supported encoder has this name", fix)
        elif importlib.util.find_spec(package) is None:
            fix = f"pip install 'vidtok-pipeline[{package}]'"
            yield Fault(f"{field}.model", spec.model, f"{package} is not installed", fix)
        if audio.codec == "opus":
            rule = "encoders take the sound as it is stored, and opus changes it"
            yield Fault("audio.codec", audio.codec, rule, "use flac or pcm16")


def open_sound_encoder(spec: SoundEncoderSpec) -> SoundEncoder:
    """Return an encoder on the CPU; its settings have no `sound_encoder_faults`.

    Raises:
        ConfigError: the weights cannot be read, or are not those of the class.
    """
    package, _, name = spec.model.partition(":")
    try:
        made = getattr(importlib.import_module(package), name)
        model, loaded = made.from_pretrained(
            spec.weights,
            torch_dtype=torch.float32,
            output_loading_info=True,
            local_files_only=Path(spec.weights).is_dir(),
        )
        for fault in ("missing_keys", "mismatched_keys"):
            if keys := loaded[fault]:
                raise ValueError(other_tensors(fault, keys, name))
        return SoundEncoder(model.eval(), spec.model)
    except Exception as error:  # the packages and the Hub's client have their own classes
        message = message_of(error) or repr(error)
        raise ConfigError(f"encoder {spec.name}: weights = {spec.weights}: {message}") from error


def sound_identities(audio: AudioConfig) -> dict[str, dict[str, Any]]:
    """Open each encoder once; return its identity by name.

    Raises:
        ConfigError: an encoder cannot be loaded, or takes another rate or number of channels.
    """
    found = {}
    for n, spec in enumerate(audio.encoders):
        encoder = open_sound_encoder(spec)
        for field in ("rate", "channels"):
            if getattr(audio, field) != (needs := getattr(encoder, field)):
                rule = f"audio.encoders.{n} takes {field} = {needs}"
                fault = Fault(f"audio.{field}", getattr(audio, field), rule, f"use {needs}")
                raise ConfigError(str(fault))
        found[spec.name] = encoder.identity(spec.model)
    return found


def same_sound_encoder(spec: SoundEncoderSpec, column: SideColumn, device: str) -> SoundEncoder:
    """Return an encoder on a device, if it is the one that the dataset's column names.

    Raises:
        ConfigError: this node has other weights.
    """
    encoder = open_sound_encoder(spec)
    if (found := weights_digest(encoder.model.state_dict())) != column.settings["weights"]:
        raise ConfigError(
            f"encoder {spec.name}: weights = {spec.weights}: digest {found}, but the dataset was"
            f" made with {column.settings['weights']}; copy the same files to every node"
        )
    encoder.model.to(device)
    return encoder
