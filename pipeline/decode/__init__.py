"""Decode: one sample's bytes in, clips of upright RGB frames in the tokenizer's shape out.

    file ─► video (demux, decode) ─► sampling (by presentation time) ─► frame_converter ─► clip
      └─────────── one killable process per Decoder, forked from a fork_server ──────────┘

`Decoder` is the caller's side: it keeps the process, kills it if it hangs and replaces it if it
dies. Any harm that a video does to its decoder ends as a `QuarantineError` of that one sample.
"""

from pipeline.decode.buckets import clip_rules
from pipeline.decode.clip_rule import ClipRule, DecodeLimits, SoundRule
from pipeline.decode.decoder import Decoder

__all__ = ["ClipRule", "DecodeLimits", "Decoder", "SoundRule", "clip_rules"]
