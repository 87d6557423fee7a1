"""All tokenizers by name: the 23 released configurations, and four narrow ones in this package.

`vidtok_{kl|fsq}_{causal|noncausal}_{compression in time, height, width}_{channels | codebook}`.
Source: the configuration files of the VidTok release (v1.0 and v1.1).
"""

from importlib import resources
from pathlib import Path
from typing import Any

from vidtok.config import Network, TokenizerConfig

HUB_REPO = "microsoft/VidTok"
"""Hugging Face repository of the released checkpoints."""

_WIDE = {"ch_mult": (1, 2, 4, 4, 4)}
_288 = {"tempo_ds": (1,), "tempo_us": (2,)}
_444 = {"spatial_ds": (1, 2), "spatial_us": (1, 2)}
_888 = {"tempo_ds": (0, 1, 2), "tempo_us": (1, 2, 3)}
_TINY = {"ch": 16, "num_res_blocks": 1}


def _config(name: str, network: Network, channels: int, **more: Any) -> TokenizerConfig:
    fsq = name.startswith("vidtok_fsq_")
    return TokenizerConfig(
        name=name,
        network=network,
        regularizer="fsq" if fsq else "kl",
        z_channels=channels,
        fsq_levels=(8,) * channels if fsq else (),
        **more,
    )


_RELEASED = (
    _config("vidtok_fsq_causal_41616_262144", "causal_v1_0", 6, **_WIDE),
    _config("vidtok_fsq_causal_488_262144", "causal_v1_0", 6),
    _config("vidtok_fsq_causal_488_32768", "causal_v1_0", 5),
    _config("vidtok_fsq_causal_488_4096", "causal_v1_0", 4),
    _config("vidtok_fsq_noncausal_41616_262144", "noncausal", 6, **_WIDE),
    _config("vidtok_fsq_noncausal_488_262144", "noncausal", 6),
    _config("vidtok_kl_causal_288_8chn", "causal_v1_0", 8, **_288),
    _config("vidtok_kl_causal_41616_4chn", "causal_v1_0", 4, **_WIDE),
    _config("vidtok_kl_causal_444_4chn", "causal_v1_0", 4, **_444),
    _config("vidtok_kl_causal_488_16chn", "causal_v1_0", 16),
    _config("vidtok_kl_causal_488_4chn", "causal_v1_0", 4),
    _config("vidtok_kl_causal_488_8chn", "causal_v1_0", 8),
    _config("vidtok_kl_noncausal_41616_16chn", "noncausal", 16, **_WIDE),
    _config("vidtok_kl_noncausal_41616_4chn", "noncausal", 4, **_WIDE),
    _config("vidtok_kl_noncausal_488_16chn", "noncausal", 16),
    _config("vidtok_kl_noncausal_488_4chn", "noncausal", 4),
    _config("vidtok_fsq_causal_41616_262144_v1_1", "causal_v1_1", 6, **_WIDE),
    _config("vidtok_fsq_causal_488_32768_v1_1", "causal_v1_1", 5),
    _config("vidtok_fsq_causal_888_32768_v1_1", "causal_v1_1", 5, **_888),
    _config("vidtok_kl_causal_288_8chn_v1_1", "causal_v1_1", 8, **_288),
    _config("vidtok_kl_causal_41616_16chn_v1_1", "causal_v1_1", 16, **_WIDE),
    _config("vidtok_kl_causal_488_16chn_v1_1", "causal_v1_1", 16),
    _config("vidtok_kl_causal_488_4chn_v1_1", "causal_v1_1", 4),
)

_BUNDLED = (
    _config("vidtok_fsq_causal_488_262144_tiny", "causal_v1_0", 6, **_TINY),
    _config("vidtok_kl_causal_488_8chn_tiny", "causal_v1_0", 8, **_TINY),
    _config("vidtok_fsq_causal_488_262144_tiny_v1_1", "causal_v1_1", 6, **_TINY),
    _config("vidtok_kl_causal_488_8chn_tiny_v1_1", "causal_v1_1", 8, **_TINY),
)

PRESETS: dict[str, TokenizerConfig] = {config.name: config for config in _RELEASED + _BUNDLED}


def list_models() -> list[str]:
    """Return the names of all configurations: those released and those of this package."""
    return list(PRESETS)


def named_config(name: str) -> TokenizerConfig:
    """Return the configuration with a name.

    Raises:
        ValueError: the name is not known; the text lists all names.
    """
    if name not in PRESETS:
        raise ValueError(f"no tokenizer is called {name!r}: must be one of {', '.join(PRESETS)}")
    return PRESETS[name]


def hub_path(name: str) -> str | None:
    """Return the path of a released checkpoint in `HUB_REPO`, or None for this package's own."""
    if name not in {config.name for config in _RELEASED}:
        return None
    folder = "checkpoints/vidtok_v1_1" if name.endswith("_v1_1") else "checkpoints"
    return f"{folder}/{name}.ckpt"


def bundled_weights(name: str) -> Path | None:
    """Return the file with the weights that this package has for a name, or None."""
    path = Path(str(resources.files("vidtok"))) / "weights" / f"{name}.safetensors"
    return path if path.exists() else None
