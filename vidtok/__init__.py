"""VidTok video tokenizers (arXiv 2412.13061): FSQ code indices and KL latents, in pure PyTorch.

What needs torch is imported when it is first used, so that programs check their settings at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vidtok.config import TokenizerConfig
from vidtok.presets import bundled_weights, list_models

if TYPE_CHECKING:
    from vidtok.autoencoder import Encoded, EncodeStream, Tokenizer, build
    from vidtok.channels import ChannelOrder, prefix_indices
    from vidtok.checkpoint import load

__all__ = [
    "ChannelOrder",
    "EncodeStream",
    "Encoded",
    "Tokenizer",
    "TokenizerConfig",
    "build",
    "bundled_weights",
    "list_models",
    "load",
    "prefix_indices",
]

_MODULES = {"load": "checkpoint", "ChannelOrder": "channels", "prefix_indices": "channels"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, "autoencoder")
    return getattr(import_module(f"{__name__}.{module}"), name)
