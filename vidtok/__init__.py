"""VidTok video tokenizers (arXiv 2412.13061): FSQ code indices and KL latents, in pure PyTorch."""

from vidtok.autoencoder import Encoded, EncodeStream, Tokenizer, build
from vidtok.checkpoint import bundled_weights, load
from vidtok.config import TokenizerConfig
from vidtok.presets import list_models

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
