"""Training of VidTok: regularizers, the adversarial objective, averaged weights.

What needs torch is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidtok.training.ema import MovingAverage

__all__ = ["MovingAverage"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from vidtok.training.ema import MovingAverage

    return MovingAverage
