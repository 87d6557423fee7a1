"""Weights on disk: released `.ckpt` files, `.safetensors`, diffusers' folders, and the Hub.

Checkpoints of v1.0 and v1.1 hold tensors of equal names and shapes but compute different things. So
the configuration is never guessed: the caller gives it, or the file's metadata (which `save`
writes), or the file's name. A pickle is always read with `weights_only=True`.
"""

import json
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vidtok import channels, diffusers_folder
from vidtok.autoencoder import Tokenizer
from vidtok.channels import ChannelOrder
from vidtok.config import TokenizerConfig
from vidtok.digest import weights_digest
from vidtok.presets import HUB_REPO, PRESETS, bundled_weights, hub_path, named_config
from vidtok.tensor_file import write_tensors

_CONFIG_KEY, _DIGEST_KEY = "vidtok_config", "vidtok_config_digest"
_NOT_THE_NETWORK = ("loss.", "model_ema.")
"""Prefixes of the tensors in a released checkpoint that only training needs."""
_AGAIN = "copy or download the file again"
_SHOWN = 5
"""Maximum number of tensors that an error names."""


def load(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    config: str | TokenizerConfig | None = None,
) -> Tokenizer:
    """Return a trained tokenizer in eval mode.

    Args:
        name_or_path: a `.safetensors` or `.ckpt` file; a folder of diffusers' `AutoencoderVidTok`;
            a name from `list_models()`, for weights in this package or released on the Hub; or a
            Hub id, `owner/repo` (for its `model.safetensors`) or `owner/repo/path/in/repo`.
        device: device that the network computes on.
        dtype: type that it computes in.
        config: the configuration or its name, if neither the file nor its name tells it.

    Raises:
        ValueError: the file is damaged or holds no weights, its configuration is not known, its
            tensors do not fit it, it is a pickle that holds more than tensors, or the channels
            file beside it is damaged.
        FileNotFoundError: there is no such file, name or Hub id.
        ImportError: huggingface_hub is required for a Hub id and is not installed.
    """
    path = locate(str(name_or_path))
    model = load_network(path, config)
    model.channels = _channels_of(path, model)
    return model.to(device=device, dtype=dtype)


def load_network(path: Path, config: str | TokenizerConfig | None = None) -> Tokenizer:
    """Return a trained tokenizer in float32 on the CPU, without the channels file beside it.

    Args:
        path: file or folder from `locate`.
        config: as in `load`.

    Raises:
        ValueError: as `load`.
        FileNotFoundError: there is no such file.
    """
    tensors, own = _read(path)
    chosen = _configuration(path, config, own)
    with _Uninitialised():
        model = Tokenizer(chosen)
    _check_tensors(path, tensors, model.state_dict(), chosen.name)
    model.load_state_dict(tensors)
    return model.eval()


def _channels_of(path: Path, model: Tokenizer) -> ChannelOrder | None:
    """Return the order of channels that a file beside the weights holds, or None."""
    own = channels.beside(path)
    if not own.exists():
        return None
    order = channels.read(own)
    if order.levels != model.config.fsq_levels or order.weights not in (
        "",
        weights_digest(model.state_dict()),
    ):
        warnings.warn(
            f"{own}: was fitted to other weights than {path.name} and is not used; fit it again"
            " with `python -m vidtok channels`, or delete it",
            stacklevel=3,
        )
        return None
    return order


def save(
    model: Tokenizer,
    target: Path,
    dtype: torch.dtype | None = None,
    about: Mapping[str, str] | None = None,
) -> None:
    """Write the weights of a model as safetensors, with configuration and digest as metadata.

    Args:
        model: the model.
        target: file to write.
        dtype: type of the stored tensors. None keeps their types.
        about: more metadata.

    Raises:
        ValueError: a weight is too large for the type.
    """
    weights = model.state_dict()
    tensors = {name: t.to(dtype or t.dtype).contiguous() for name, t in weights.items()}
    for name, stored in tensors.items():
        if bool((stored.isinf() & weights[name].isfinite()).any()):
            raise ValueError(
                f"{name}: has values above {torch.finfo(stored.dtype).max:g}, the largest of"
                f" {stored.dtype}; store the weights as float32"
            )
    metadata = {
        "format": "pt",
        _CONFIG_KEY: json.dumps(model.config.to_dict()),
        _DIGEST_KEY: model.config.digest,
    } | dict(about or {})
    write_tensors(tensors, target, metadata)


def save_for_diffusers(model: Tokenizer, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a model as a folder that diffusers' `AutoencoderVidTok.from_pretrained` opens.

    Args:
        model: the model, of v1.1 or non-causal.
        folder: folder to make; it must not exist or be empty.
        dtype: type of the stored tensors. None keeps their types.

    Raises:
        ValueError: the class does not implement such a model, the folder holds files, or a weight
            is too large for the type.
    """
    values = diffusers_folder.class_config(model.config)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise ValueError(f"{folder}: is not empty; name a new folder")
    save(model, folder / diffusers_folder.WEIGHTS, dtype)
    (folder / diffusers_folder.CONFIG).write_text(json.dumps(values, indent=2) + "\n")


class _Uninitialised(TorchFunctionMode):
    """Leaves new parameters as they are allocated.

    Drawing values takes seconds for a large network. The meta device imports sympy, for half a
    second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def locate(name_or_path: str) -> Path:
    """Return the file or folder of weights that `load` opens; it is downloaded if necessary.

    Raises:
        FileNotFoundError: as `load`.
        ImportError: as `load`.
    """
    path = Path(name_or_path)
    # Any folder can have the name of a model, such as the output of its training.
    if path.is_file() or (path / diffusers_folder.CONFIG).is_file():
        return path
    if path.is_dir() and name_or_path not in PRESETS:
        return path
    if path.suffix in (".ckpt", ".safetensors") and (path.is_absolute() or path.parent.is_dir()):
        raise FileNotFoundError(f"{path}: no such file")
    if name_or_path in PRESETS:
        if own := bundled_weights(name_or_path):
            return own
        in_repo = hub_path(name_or_path)
        if in_repo is None:
            raise FileNotFoundError(
                f"{name_or_path}: this package has no weights for it; give a file, or use "
                "vidtok.build() for an untrained network"
            )
        return _download(HUB_REPO, in_repo)
    owner, _, rest = name_or_path.partition("/")
    repo, _, in_repo = rest.partition("/")
    if owner and repo and not path.is_absolute() and not name_or_path.startswith("."):
        return _download(f"{owner}/{repo}", in_repo or "model.safetensors")
    raise FileNotFoundError(
        f"{name_or_path}: must be a file, a name from vidtok.list_models() or a Hub id"
    )


def _download(repo: str, filename: str) -> Path:
    try:
        from huggingface_hub import (
            get_hf_file_metadata,
            hf_hub_download,
            hf_hub_url,
            try_to_load_from_cache,
        )
    except ImportError as error:
        raise ImportError(
            f"{repo}/{filename} is on the Hugging Face Hub: pip install 'vidtok-pipeline[hub]'"
        ) from error
    try:
        # Without a network this fails at once, and `hf_hub_download` after half a minute.
        if try_to_load_from_cache(repo, filename) is None:
            get_hf_file_metadata(hf_hub_url(repo, filename))
        return Path(hf_hub_download(repo, filename))
    except Exception as error:  # the library's HTTP client has its own classes
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise FileNotFoundError(
            f"{repo}/{filename} could not be loaded from the Hub ({first_line}); "
            "download it on a machine with network access and give its path"
        ) from error


def _read(path: Path) -> tuple[dict[str, Tensor], TokenizerConfig | None]:
    """Return the tensors of the network, and the configuration in the file or None."""
    config = None
    if path.is_dir():
        return _read_folder(path)
    if path.suffix not in (".ckpt", ".safetensors"):
        raise ValueError(f"{path}: must end in .safetensors or .ckpt")
    _require_binary(path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path}: not a whole safetensors file: {error}; {_AGAIN}") from error
        if _CONFIG_KEY in metadata:
            try:
                config = TokenizerConfig.from_dict(json.loads(metadata[_CONFIG_KEY]))
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path}: metadata {_CONFIG_KEY}: {error}; {_AGAIN}") from error
            if metadata.get(_DIGEST_KEY, config.digest) != config.digest:
                raise ValueError(
                    f"{path}: metadata {_CONFIG_KEY} does not match its digest; {_AGAIN}"
                )
    else:
        tensors = _unpickle(path)
    return {k: t for k, t in tensors.items() if not k.startswith(_NOT_THE_NETWORK)}, config


def _read_folder(folder: Path) -> tuple[dict[str, Tensor], TokenizerConfig]:
    """Return tensors and configuration of a folder of diffusers' `AutoencoderVidTok`."""
    config = diffusers_folder.read_config(folder)
    path = folder / diffusers_folder.WEIGHTS
    if not path.is_file():
        raise ValueError(
            f"{folder}: has no {diffusers_folder.WEIGHTS}; save the model with"
            " save_pretrained(…, max_shard_size='100GB'), as one file of safetensors"
        )
    tensors, own = _read(path)
    if own is None:
        return tensors, config
    if own.digest != config.digest:
        raise ValueError(
            f"{folder}: {diffusers_folder.CONFIG} describes a {config.network} model, the weights"
            f" are of {own.name}, which is {own.network}; convert the weights again"
        )
    return tensors, own


def _require_binary(path: Path) -> None:
    """Refuse what a failed download leaves in the place of weights."""
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise ValueError(f"{path}: is empty; {_AGAIN}")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: is a Git LFS pointer, not the weights; run `git lfs pull`")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path}: is a web page (HTML or XML), not the weights; {_AGAIN}")


def _unpickle(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not (names := _unsafe_names(path)):
            raise ValueError(f"{path}: not a whole checkpoint of torch; {_AGAIN}") from error
        raise ValueError(
            f"{path}: a pickle that holds more than tensors ({', '.join(names)}) is not "
            "opened; if you trust it, open it with torch.load(…, weights_only=False) on an "
            "isolated machine and save it with torch.save({'state_dict': content['state_dict']}, …)"
        ) from error
    except Exception as error:  # what a damaged pickle raises depends on where it is damaged
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path}: torch cannot read it as a checkpoint: {reason}; {_AGAIN}"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(t, Tensor) for name, t in state.items()
    ):
        raise ValueError(
            f"{path}: holds no state_dict of tensors; save it with"
            " torch.save({'state_dict': model.state_dict()}, …)"
        )
    return dict(state)


def _unsafe_names(path: Path) -> list[str]:
    """Return the names in a pickle that are not of tensors; none if it is damaged."""
    try:
        return list(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # as in `_unpickle`
        return []


def _configuration(
    path: Path, given: str | TokenizerConfig | None, own: TokenizerConfig | None
) -> TokenizerConfig:
    if isinstance(given, str):
        given = named_config(given)
    if given is not None:
        if own is not None and own.digest != given.digest:
            raise ValueError(
                f"{path}: has the configuration of {own.name} ({own.network}), not of {given.name}"
                f" ({given.network}); name {own.name}, or give weights of {given.name}"
            )
        return given
    if own is not None:
        return own
    if path.stem in PRESETS:
        return PRESETS[path.stem]
    raise ValueError(
        f"{path}: the file has no configuration, and its name is not in vidtok.list_models(); "
        "give config=NAME (tensors do not tell v1.0 from v1.1)"
    )


def _check_tensors(
    path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str
) -> None:
    faults = [f"missing {key}" for key in wanted if key not in found]
    faults += [f"unexpected {key}" for key in found if key not in wanted]
    faults += [
        f"{key} is {tuple(found[key].shape)}, not {tuple(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in found and found[key].shape != tensor.shape
    ]
    if faults:
        more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise ValueError(
            f"{path}: the tensors are not those of {name}: {', '.join(faults[:_SHOWN])}{more};"
            f" name the model that they belong to, or {_AGAIN}"
        )
