"""The video autoencoders of diffusers as a `VideoTokenizer`.

What is stored is what the library's `encode` gives for contiguous float32 frames: the posterior's
mean, not normalised, and on request its log-variance. Tiles, slices and framewise passes, which
blend results and depend on the clip's size, are off, also where the library turns them on.
"""

import difflib
import importlib.util
import inspect
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.config.job import HUB, RANDOM
from pipeline.config.loading import Fault
from pipeline.dataset.schema import Normalize
from pipeline.tokenizers.protocol import Encoded, Facts, Lengths
from pipeline.tokenizers.tensor_faults import other_tensors
from pipeline.tokenizers.vidtok_adapter import UNTRAINED_SEED
from vidtok.presets import PRESETS


def _one_more(f: int) -> Lengths:
    return Lengths(multiple=f, remainders=(1 % f,))


_VIDTOK, _COSMOS = "AutoencoderVidTok", "AutoencoderKLCosmos"

LENGTHS: Final[Mapping[str, Callable[[int], Lengths]]] = {
    "AutoencoderKLWan": _one_more,
    "AutoencoderKLLTXVideo": _one_more,
    "AutoencoderKLLTX2Video": _one_more,
    "AutoencoderKLHunyuanVideo": _one_more,
    "AutoencoderKLHunyuanVideo15": _one_more,
    # It encodes runs of 8 frames, the first with the one frame that is left over.
    "AutoencoderKLCogVideoX": lambda _: Lengths(multiple=8, remainders=(0, 1)),
    _COSMOS: _one_more,
    "AutoencoderKLMochi": _one_more,
    _VIDTOK: _one_more,
}
"""Supported classes, and their rule of valid lengths by temporal factor. Plans prove the lengths
that they need; see `pipeline.tokenizers.probe`."""

NOT_CAUSAL: Final = ("AutoencoderKLHunyuanVideo", "AutoencoderKLCogVideoX")
"""Classes whose latent frames depend on later frames: they normalise over the frames of a clip."""

REFUSED: Final = {
    "AutoencoderKLAllegro": "it encodes in overlapping tiles only, whose blended latents depend on"
    " the tiles",
}
"""Classes that are not supported, and the reasons."""

_NO_TILES = ("use_tiling", "use_slicing", "use_framewise_encoding", "use_framewise_decoding")

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(/(?P<folder>[\w./-]+))?")


def diffusers_faults(name: str, weights: str | None, where: str = "") -> Iterator[Fault]:
    """Yield the errors in the name of a class of diffusers and in its weights.

    Args:
        name: name of the class.
        weights: path of a folder or a file, a Hub id, or `random`.
        where: text before the fields `model` and `weights`, such as `tokenizers.0.`.
    """
    field, value = f"{where}model", f"diffusers:{name}"
    if name in REFUSED:
        fix = f"use {', '.join(LENGTHS)}"
        yield Fault(field, value, f"is not supported: {REFUSED[name]}", fix)
    elif name not in LENGTHS:
        close = difflib.get_close_matches(name, LENGTHS, n=1) or LENGTHS
        yield Fault(field, value, "no supported class has this name", f"use {', '.join(close)}")
    elif importlib.util.find_spec("diffusers") is None:
        fix = "pip install 'vidtok-pipeline[diffusers]'"
        yield Fault(field, value, "diffusers is not installed", fix)
    elif weights is None or weights == HUB:
        rule = "must be a folder in the layout of diffusers, a file, a Hub id, or random"
        yield Fault(f"{where}weights", weights, rule)
    elif "://" in weights:
        rule = "must be a path that every node can read"
        yield Fault(f"{where}weights", weights, rule, "copy it to such a path first")
    elif weights == RANDOM or Path(weights).exists():
        pass
    elif weights.startswith(("/", ".")) or _HUB_ID.fullmatch(weights) is None:
        fix = "give a folder, a file, a Hub id, or random"
        yield Fault(f"{where}weights", weights, "no such file or folder", fix)


def open_diffusers(name: str, weights: str | None) -> "Diffusers":
    """Return an autoencoder whose name and weights have no `diffusers_faults`.

    Raises:
        ValueError: the weights are of another class, or their tensors are not those of the network.
        OSError: the weights cannot be read, or not be downloaded.
    """
    import diffusers

    made: Any = getattr(diffusers, name)
    if weights == RANDOM:
        with torch.random.fork_rng():
            torch.manual_seed(UNTRAINED_SEED)
            return Diffusers(made())
    assert weights is not None
    path = Path(weights)
    if name == _VIDTOK:
        _refuse_causal_v1_0(path)
    if not path.is_file():
        return Diffusers(_from_folder(made, name, path))
    if (config := path.with_name("config.json")).is_file():
        vae = made.from_config(_of_class(name, json.loads(config.read_text())))
        vae.load_state_dict(load_file(path))
        return Diffusers(vae)
    if not hasattr(made, "from_single_file"):
        raise ValueError(f"needs its config.json beside it; {name} reads no other single file")
    return Diffusers(made.from_single_file(weights, torch_dtype=torch.float32))


def _from_folder(made: Any, name: str, path: Path) -> Any:
    """Load a folder of this machine or of the Hub; `vae` is the autoencoder of a whole pipeline."""
    if path.is_dir():
        whole = not (path / "config.json").exists() and (path / "vae").is_dir()
        source, folder = str(path), "vae" if whole else None
    else:
        found = _HUB_ID.fullmatch(str(path))
        assert found is not None
        source, folder = found["repo"], found["folder"]
    options = {"subfolder": folder, "local_files_only": path.is_dir()}
    _of_class(name, made.load_config(source, **options))
    vae, loaded = made.from_pretrained(
        source,
        torch_dtype=torch.float32,
        low_cpu_mem_usage=False,
        output_loading_info=True,
        **options,
    )
    # The library initialises what it does not find, and only warns.
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if keys := loaded[fault]:
            raise ValueError(other_tensors(fault, keys, name))
    return vae


def _of_class(name: str, config: Mapping[str, Any]) -> Mapping[str, Any]:
    if (found := config.get("_class_name", name)) != name:
        raise ValueError(
            f"config.json is of {found}, not of {name}; set model to diffusers:{found}, or give"
            f" weights of {name}"
        )
    return config


def _refuse_causal_v1_0(path: Path) -> None:
    """Refuse weights of causal v1.0, whose tensors fit the class, which computes as v1.1 does.

    Nothing in the tensors tells the two apart. So the file's own metadata, which `vidtok` writes,
    and the names of released models decide.
    """
    names = {path.stem, *path.parts}
    files = [path] if path.is_file() else path.glob("*.safetensors")
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                config = (opened.metadata() or {}).get("vidtok_config", "{}")
            names.add(json.loads(config).get("network", ""))
    old = {name for name, preset in PRESETS.items() if preset.network == "causal_v1_0"}
    if names & {"causal_v1_0", *old}:
        raise ValueError(
            "these are weights of VidTok's causal v1.0, which AutoencoderVidTok does not implement:"
            " it computes as v1.1; use `model:` with the model's own name"
        )


class Diffusers:
    """A `VideoTokenizer`: one autoencoder of diffusers.

    Calls are serialised by a lock, because some classes keep a temporal cache on the module.
    """

    def __init__(self, vae: Any) -> None:
        self._vae = vae.eval().requires_grad_(False)
        self._lock = threading.Lock()
        self._name: str = type(vae).__name__
        for flag in _NO_TILES:
            if hasattr(vae, flag):
                setattr(vae, flag, False)
        self.facts = _facts(vae, self._name)

    @property
    def config(self) -> Mapping[str, Any]:
        """Class, and those of its settings that are not the defaults of the class."""
        parameters = inspect.signature(type(self._vae).__init__).parameters
        plain = {name: _plain(value) for name, value in dict(self._vae.config).items()}
        changed = {
            name: value
            for name, value in plain.items()
            if name in parameters and value != _plain(parameters[name].default)
        }
        return {"class": self._name, **changed}

    def module(self) -> nn.Module:
        """Return the network."""
        network: nn.Module = self._vae
        return network

    def encode(self, video: Tensor) -> Encoded:
        """Encode clips; AutoencoderVidTok gets its first frame repeated, as its callers must."""
        with self._lock, torch.no_grad():
            x = video.to(self._vae.device, self._vae.dtype).contiguous()
            if self._name == _VIDTOK and self._vae.is_causal:
                first = x[:, :, :1].expand(-1, -1, self.facts.temporal_factor - 1, -1, -1)
                x = torch.cat([first, x], 2)
            result = self._vae.encode(x)
        if self.facts.kind == "indices":
            codes, indices = result
            return Encoded(codes.float(), indices=indices.to(torch.int32))
        posterior = result.latent_dist
        mean = posterior.mode().float()
        logvar = posterior.logvar.float() if self.facts.logvar else None
        return Encoded(mean, mean=mean, logvar=logvar)

    def decode(self, cells: Tensor, num_frames: int) -> Tensor:
        """Decode indices or latents to as many frames as they give."""
        with self._lock, torch.no_grad():
            if self.facts.kind == "indices":
                video: Tensor = self._vae.decode(
                    cells.to(self._vae.device), decode_from_indices=True
                )
                return video
            z = cells.to(self._vae.device, self._vae.dtype).contiguous()
            more = {}
            if self._vae.config.get("timestep_conditioning"):
                more["temb"] = z.new_zeros(len(z))  # without noise, as the pipelines' default
            result = self._vae.decode(z, **more)
        decoded: Tensor = getattr(result, "sample", result)
        return decoded


def _facts(vae: Any, name: str) -> Facts:
    # Some classes compute these, and some have them in their configuration or among their buffers.
    given = {key: value for key, value in dict(vae.config).items() if value is not None}
    known = {**vars(vae), **dict(vae.named_buffers(recurse=False)), **given}

    def first(*keys: str) -> Any:
        return next(known[key] for key in keys if key in known)

    vidtok = name == _VIDTOK
    fsq = vidtok and known["regularizer"] == "fsq"
    channels = first("z_dim", "z_channels", "latent_channels")
    f = int(first("temporal_compression_ratio", "scale_factor_temporal"))
    if vidtok:
        spatial = 2 ** len(vae.encoder.spatial_ds)
    elif name == "AutoencoderKLCogVideoX":
        spatial = 2 ** (len(known["block_out_channels"]) - 1)
    else:
        spatial = int(known["spatial_compression_ratio"])
    lengths = LENGTHS[name](f)
    if vidtok and not vae.is_causal:
        run = vae.num_sample_frames_batch_size  # decoding cuts what is left over
        lengths = Lengths(multiple=run, least=run)
    return Facts(
        kind="indices" if fsq else "latents",
        channels=channels,
        codebook_size=known["codebook_size"] if fsq else None,
        levels=(8,) * channels if fsq else (),
        temporal_factor=f,
        spatial_factor=spatial,
        lengths=lengths,
        logvar=not fsq and name != _COSMOS,
        normalize=None if fsq else _normalize(known, name, channels),
        causal=name not in NOT_CAUSAL
        and all(known.get(setting, True) for setting in ("encoder_causal", "is_causal")),
    )


def _normalize(known: Mapping[str, Any], name: str, channels: int) -> Normalize | None:
    """Return (x - mean) * scaling / std, or (x - shift) * scaling, from the class's settings."""
    mean = [float(one) for one in known.get("latents_mean", ())]
    std = [float(one) for one in known.get("latents_std", ())]
    # Cosmos has a mean for each channel and latent frame.
    if len(mean) != channels and not (name == _COSMOS and mean and not len(mean) % channels):
        mean, std = [known.get("shift_factor", 0.0)] * channels, [1.0] * channels
    scale = [known.get("scaling_factor", 1.0) / one for one in std]
    if not any(mean) and all(one == 1.0 for one in scale):
        return None
    return Normalize(shift=tuple(mean), scale=tuple(scale))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
