"""Models: loading, encoding, decoding, identity.

What needs torch is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.tokenizers.models import open_models
    from pipeline.tokenizers.protocol import VideoTokenizer
    from pipeline.tokenizers.reconstruction import as_bytes
    from pipeline.tokenizers.vidtok_adapter import VidTok

__all__ = ["VidTok", "VideoTokenizer", "as_bytes", "open_models"]

_MODULES = {
    "VidTok": "vidtok_adapter",
    "VideoTokenizer": "protocol",
    "as_bytes": "reconstruction",
    "open_models": "models",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
