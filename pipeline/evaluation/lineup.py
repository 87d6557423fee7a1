"""Candidates of an evaluation: its tokenizers, and the baselines of each."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ConfigError, PipelineError
from pipeline.evaluation.baseline_codecs import CODECS, CodecAtSameBits, missing_codec
from pipeline.evaluation.baseline_resize import ShrinkAndEnlarge
from pipeline.evaluation.candidate import Candidate, Reconstruction
from pipeline.evaluation.checks import candidate_faults, clip_frames
from pipeline.evaluation.config import EvaluatedClip, EvaluatedTokenizer, EvaluationConfig
from pipeline.tokenizers.checks import is_foreign, is_untrained, tile_faults
from pipeline.tokenizers.models import DTYPES, open_tokenizer
from pipeline.tokenizers.probe import prove_lengths
from pipeline.tokenizers.protocol import Encoded, Facts, tiling
from vidtok.digest import weights_digest
from vidtok.evaluation.rate import code_digits, coded_bits, value_bytes

LATENT_BITS = 16
"""Bits of a latent's value: it is rounded to float16, as stored by the corpus job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateFacts:
    """Facts about a candidate besides its scores, JSON-like."""

    name: str
    what: str
    clip_frames: int | None
    """Number of frames of a clip; None for whole videos."""
    model: str | None = None
    weights: str | None = None
    """Digest of the weights."""
    untrained: bool = False


@dataclass(slots=True)
class Lineup:
    """All candidates, by the length of their clips."""

    groups: dict[int | None, list[Candidate]] = field(default_factory=dict)
    facts: dict[str, Facts] = field(default_factory=dict)
    """Facts of the tokenizers, by name."""
    descriptions: list[CandidateFacts] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Reasons why requested baselines are missing, by name."""

    def add(self, candidate: Candidate, description: CandidateFacts) -> None:
        """Add a candidate, unless its name is known."""
        if any(known.name == candidate.name for known in self.descriptions):
            return
        self.groups.setdefault(description.clip_frames, []).append(candidate)
        self.descriptions.append(description)


def line_up(config: EvaluationConfig, device: str) -> Lineup:
    """Return tokenizers, in the order given, then baselines.

    Raises:
        ConfigError: weights are missing or belong to another model.
    """
    lineup = Lineup()
    for spec in config.tokenizers:
        tokenizer = TokenizerCandidate(spec, config, device)
        lineup.facts[spec.name] = tokenizer.facts
        lineup.add(tokenizer, tokenizer.description)
    for baseline in config.baselines:
        if baseline != "shrink" and (reason := missing_codec(baseline)):
            lineup.absent[baseline] = reason
            continue
        for spec in config.tokenizers:
            _add_baseline(lineup, baseline, spec.name, config.clip)
    return lineup


class TokenizerCandidate:
    """A candidate: one tokenizer."""

    def __init__(self, spec: EvaluatedTokenizer, config: EvaluationConfig, device: str) -> None:
        self.name = spec.name
        model = open_tokenizer(spec.spec)
        self.facts = model.facts
        faults = list(candidate_faults(config.clip, spec.model, model.facts))
        if faults := [*faults, *tile_faults(config.tile, spec.model, model.facts)]:
            raise ConfigError("\n".join(map(str, faults)))
        length = clip_frames(model.facts, config.clip)
        if is_foreign(spec.spec) and length:
            prove_lengths(model, spec.model, [length])
        self.description = CandidateFacts(
            name=spec.name,
            what=spec.model,
            clip_frames=length,
            model=spec.model,
            weights=weights_digest(model.module().state_dict()),
            untrained=is_untrained(spec.spec),
        )
        self._draws = config.kl_latent == "sample" and model.facts.logvar
        model.module().to(device=device, dtype=DTYPES[spec.precision])
        more: dict[str, Any] = tiling(model, config.tile)
        if length is None:
            if config.clip.chunking == "reference":
                more = {"as_reference": True}
            more["chunk_frames"] = config.clip.chunk_frames
        self._encode: Callable[[Tensor], Encoded] = partial(model.encode, **more)
        self._decode: Callable[[Tensor, int], Tensor] = partial(model.decode, **more)

    def reconstruct(self, video: Tensor, clip_id: str) -> Reconstruction:
        """Encode and decode a clip `[1, 3, T, H, W]` in [-1, 1].

        Raises:
            PipelineError: the latent or the reconstruction is not finite.
        """
        encoded = self._encode(video)
        latent, cells = encoded.latent, encoded.indices
        if cells is None:
            latent = encoded.sample(seed=_seed(clip_id)) if self._draws else latent
            latent = cells = latent.to(torch.float16).float()
        self._require_finite(latent, "latent", clip_id)
        decoded = self._decode(cells, video.shape[2]).float()
        self._require_finite(decoded, "reconstruction", clip_id)
        t, h, w = cells.shape[-3:]
        return Reconstruction(
            video=decoded,
            bits=t * h * w * cell_bits(self.facts),
            coded_bits=float(_coded_bits(self.facts, cells[0])),
            indices=encoded.indices,
        )

    def _require_finite(self, values: Tensor, what: str, clip_id: str) -> None:
        if not bool(torch.isfinite(values).all()):
            raise PipelineError(
                f"candidate {self.name}: values are not finite on {clip_id}: NaN or infinity in the"
                f" {what}; use other weights or precision: float32"
            )


def _coded_bits(facts: Facts, cells: Tensor) -> int:
    """Return the coded length of the indices `[t, h, w]` or the latent `[C, t, h, w]` of a clip."""
    if facts.codebook_size is None:
        planes = value_bytes(cells)
        return coded_bits(planes, [256] * len(planes))
    levels = facts.levels or (facts.codebook_size,)
    return coded_bits(code_digits(cells, levels), levels)


def _add_baseline(lineup: Lineup, baseline: str, tokenizer: str, clip: EvaluatedClip) -> None:
    """Add the baseline of a tokenizer, unless another tokenizer has the same one."""
    facts = lineup.facts[tokenizer]
    length = clip_frames(facts, clip)
    f, s = facts.temporal_factor, facts.spatial_factor
    if baseline == "shrink":
        name = f"shrink {f}x{s}x{s}, {f'{length} frames' if length else 'whole videos'}"
        what = f"one RGB value for every {f}×{s}×{s} pixels, enlarged"
        candidate: Candidate = ShrinkAndEnlarge(facts, name)
    else:
        same = next(
            other
            for other, known in lineup.facts.items()
            if clip_frames(known, clip) == length and _rate(known) == _rate(facts)
        )
        name = f"{baseline} as {same}"
        what = f"{CODECS[baseline].title}, at most the bits of {same}"
        candidate = CodecAtSameBits(CODECS[baseline], facts, cell_bits(facts), name)
    lineup.add(candidate, CandidateFacts(name=name, what=what, clip_frames=length))


def cell_bits(facts: Facts) -> float:
    """Return the bits of one latent cell, stored without compression."""
    if facts.codebook_size is not None:
        return math.log2(facts.codebook_size)
    return float(facts.channels * LATENT_BITS)


def _rate(facts: Facts) -> tuple[int, int, float]:
    return facts.temporal_factor, facts.spatial_factor, cell_bits(facts)


def _seed(clip_id: str) -> int:
    return int(hashlib.sha256(clip_id.encode()).hexdigest()[:8], 16)
