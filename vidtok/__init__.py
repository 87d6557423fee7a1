"""VidTok video tokenizers (arXiv 2412.13061): FSQ code indices and KL latents, in pure PyTorch.

What needs torch is imported when it is first used, so that programs check their settings at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vidtok.config import TokenizerConfig
from vidtok.presets import bundled_weights, list_models

if TYPE_CHECKING:
    from vidtok.autoencoder import Encoded, EncodeStream, Tokenizer, build
    from vidtok.checkpoint import load

__all__ = [
    "EncodeStream",
    "Encoded",
    "Tokenizer",
    "TokenizerConfig",
    "build",
    "bundled_weights",
    "list_models",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "checkpoint" if name == "load" else "autoencoder"
    return getattr(import_module(f"{__name__}.{module}"), name)
