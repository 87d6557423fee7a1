"""Folders of diffusers' `AutoencoderVidTok`: our configuration as its `config.json`, and back.

The class implements v1.1 and the non-causal network, with tensors of the same names and shapes as
here. It does not implement causal v1.0, whose tensors it loads without an error: then most code
indices differ. So a v1.0 model is never written as such a folder, nor read from one.

Its callers must put the first frame (temporal factor - 1) times in front of a causal clip. The
class keeps the state of a clip on its modules, so one model must not encode two clips at once.
Source: diffusers 0.42, `AutoencoderVidTok`.
"""

import json
from pathlib import Path
from typing import Any, Final

from vidtok.config import TokenizerConfig
from vidtok.presets import PRESETS

CONFIG: Final = "config.json"
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
_CLASS: Final = "AutoencoderVidTok"
_LEVELS: Final = 8
"""Levels of every FSQ channel; the class does not know others."""
_SAME: Final = (
    *("ch", "ch_mult", "z_channels", "num_res_blocks"),
    *("spatial_ds", "spatial_us", "tempo_ds", "tempo_us"),
)
"""Fields of equal name and meaning."""


def class_config(config: TokenizerConfig) -> dict[str, Any]:
    """Return the `config.json` of a model.

    Raises:
        ValueError: the class does not implement such a model.
    """
    if config.network == "causal_v1_0":
        raise ValueError(
            f"{config.name}: {_CLASS} implements v1.1 and non-causal networks. It would load this"
            " causal v1.0 model without an error and compute other latents; convert a v1.1 model"
        )
    fsq = config.regularizer == "fsq"
    if set(config.fsq_levels) - {_LEVELS}:
        raise ValueError(
            f"{config.name}: fsq_levels = {config.fsq_levels}: {_CLASS} knows only {_LEVELS} levels"
            " in every channel"
        )
    values = config.to_dict()
    return {
        "_class_name": _CLASS,
        "in_channels": 3,
        "out_channels": 3,
        **{name: values[name] for name in _SAME},
        "double_z": not fsq,
        "dropout": 0.0,
        "regularizer": config.regularizer,
        **({"codebook_size": config.codebook_size} if fsq else {}),
        "is_causal": config.causal,
    }


def read_config(folder: Path) -> TokenizerConfig:
    """Return the configuration of a folder's model, with the name of a release if it is one.

    Raises:
        ValueError: the folder is not of this class, or is damaged.
    """
    path = folder / CONFIG
    try:
        values = json.loads(path.read_bytes())
        found = values["_class_name"]
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder}: is a folder without {CONFIG}; give a file of weights, or a folder that"
            f" {_CLASS}.save_pretrained wrote"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: not a configuration of diffusers: {error!r}; give a folder that"
            f" {_CLASS}.save_pretrained wrote"
        ) from error
    if found != _CLASS:
        raise ValueError(f"{path}: is a {found}; only {_CLASS} is a VidTok model")
    try:
        config = _config(values, folder.name)
        rest = _differences(values, config)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not the settings of a VidTok model: {error}") from error
    if rest:
        raise ValueError(f"{path}: not the settings of a VidTok model: {', '.join(rest)}")
    names = (name for name, preset in PRESETS.items() if preset.digest == config.digest)
    return TokenizerConfig.from_dict({**config.to_dict(), "name": next(names, config.name)})


def _config(values: dict[str, Any], name: str) -> TokenizerConfig:
    fields = {field: values[field] for field in _SAME if values.get(field) is not None}
    fsq = values.get("regularizer", "kl") == "fsq"
    return TokenizerConfig.from_dict(
        {
            **fields,
            "name": name,
            "network": "causal_v1_1" if values.get("is_causal", True) else "noncausal",
            "regularizer": "fsq" if fsq else "kl",
            "z_channels": values.get("z_channels", 4),
            "fsq_levels": [_LEVELS] * values.get("z_channels", 4) if fsq else [],
        }
    )


def _differences(values: dict[str, Any], config: TokenizerConfig) -> list[str]:
    """Return the settings of a folder that its configuration here does not reproduce."""
    return [
        f"{name} = {values[name]}, must be {wanted}"
        for name, wanted in class_config(config).items()
        if values.get(name) is not None and values[name] != wanted and name != "dropout"
    ]
