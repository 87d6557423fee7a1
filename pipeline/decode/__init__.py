"""Decode: one sample's bytes in, clips of upright RGB frames in the tokenizer's shape out.

    file ─► video (demux, decode) ─► sampling (by presentation time) ─► frame_converter ─► clip
      └─────────── one killable process per Decoder, forked from a fork_server ──────────┘

`Decoder` is the caller's side: it keeps the process, kills it if it hangs and replaces it if it
dies. Any harm that a video does to its decoder ends as a `QuarantineError` of that one sample.
"""

from typing import TYPE_CHECKING, Any

from pipeline.decode.buckets import clip_rules
from pipeline.decode.clip_rule import ClipRule, DecodeLimits, SoundRule

if TYPE_CHECKING:
    from pipeline.decode.decoder import Decoder

__all__ = ["ClipRule", "DecodeLimits", "Decoder", "SoundRule", "clip_rules"]


def __getattr__(name: str) -> Any:
    """Import the caller's side when it is first used: a fork server imports this package, too."""
    if name != "Decoder":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.decode.decoder import Decoder

    return Decoder
