"""Decode: one sample's bytes in, clips of upright RGB frames in the tokenizer's shape out.

    file ─► video (demux, decode) ─► sampling (by presentation time) ─► picture (RGB, resize)
      └───────────────── one killable child process per Decoder ─────────────────┘

`Decoder` is the caller's side: it keeps the child, kills it when it hangs and starts another when
it dies. Whatever a video does to its decoder ends as a `QuarantineError` of that one sample.
"""

from pipeline.decode.buckets import clip_rules
from pipeline.decode.clip_rule import ClipRule, DecodeLimits
from pipeline.decode.decoder import Decoder

__all__ = ["ClipRule", "DecodeLimits", "Decoder", "clip_rules"]
