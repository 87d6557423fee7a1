"""Candidates of an evaluation: its tokenizers, and the baselines of each."""

import hashlib
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

import vidtok
from pipeline.evaluation.baseline_codecs import CODECS, CodecAtSameBits, missing_codec
from pipeline.evaluation.baseline_resize import ShrinkAndEnlarge
from pipeline.evaluation.candidate import Candidate, Reconstruction
from pipeline.evaluation.config import EvaluatedClip, EvaluatedTokenizer, EvaluationConfig
from pipeline.tokenizers.models import DTYPES, is_untrained, open_model, weights_digest
from vidtok.evaluation.rate import bits_per_cell

LATENT_BITS = 16
"""Bits of a KL latent's value: it is rounded to float16, as stored by the corpus job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
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
    configs: dict[str, vidtok.TokenizerConfig] = field(default_factory=dict)
    """Configurations of the tokenizers, by name."""
    descriptions: list[Description] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Reasons why requested baselines are missing, by name."""

    def add(self, candidate: Candidate, description: Description) -> None:
        """Add a candidate, unless its name is known."""
        if any(known.name == candidate.name for known in self.descriptions):
            return
        self.groups.setdefault(description.clip_frames, []).append(candidate)
        self.descriptions.append(description)


def clip_frames(config: vidtok.TokenizerConfig, clip: EvaluatedClip) -> int | None:
    """Return the number of frames in a network's clips; None for whole videos."""
    if clip.whole_videos and config.time_rule.chunkable:
        return None
    return clip.frames or (17 if config.causal else 16)


def line_up(config: EvaluationConfig, device: str) -> Lineup:
    """Return tokenizers, in the order given, then baselines.

    Raises:
        ConfigError: weights are missing or belong to another model.
    """
    lineup = Lineup()
    for spec in config.tokenizers:
        tokenizer = TokenizerCandidate(spec, config, device)
        lineup.configs[spec.name] = tokenizer.config
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
        model = open_model(spec.spec)
        self.config = model.config
        length = clip_frames(model.config, config.clip)
        self.description = Description(
            name=spec.name,
            what=spec.model,
            clip_frames=length,
            model=spec.model,
            weights=weights_digest(model),
            untrained=is_untrained(spec.spec),
        )
        self._draws = config.kl_latent == "sample"
        chunk = None if length else config.clip.chunk_frames
        reference = length is None and config.clip.chunking == "reference"
        model = model.to(device=device, dtype=DTYPES[spec.precision])
        self._encode = partial(model.encode, chunk_frames=chunk, as_reference=reference)
        self._decode = partial(model.decode, chunk_frames=chunk, as_reference=reference)

    def reconstruct(self, video: Tensor, clip_id: str) -> Reconstruction:
        """Encode and decode a clip `[1, 3, T, H, W]` in [-1, 1]."""
        encoded = self._encode(video)
        latent = encoded.latent
        if encoded.indices is None:
            if self._draws:
                latent = encoded.sample(seed=_seed(clip_id))
            latent = latent.to(torch.float16).float()
        _, _, t, h, w = latent.shape
        return Reconstruction(
            video=self._decode(latent, num_frames=video.shape[2]).float(),
            bits=t * h * w * bits_per_cell(self.config, LATENT_BITS),
            indices=encoded.indices,
        )


def _add_baseline(lineup: Lineup, baseline: str, tokenizer: str, clip: EvaluatedClip) -> None:
    """Add the baseline of a tokenizer, unless another tokenizer has the same one."""
    config = lineup.configs[tokenizer]
    length = clip_frames(config, clip)
    f, s = config.temporal_factor, config.spatial_factor
    if baseline == "shrink":
        name = f"shrink {f}x{s}x{s}, {f'{length} frames' if length else 'whole videos'}"
        what = f"one RGB value for every {f}×{s}×{s} pixels, enlarged"
        candidate: Candidate = ShrinkAndEnlarge(config, name)
    elif config.codebook_size is not None:
        same = next(
            other
            for other, known in lineup.configs.items()
            if clip_frames(known, clip) == length and _rate(known) == _rate(config)
        )
        name = f"{baseline} as {same}"
        what = f"{CODECS[baseline].title}, at most the bits of {same}"
        candidate = CodecAtSameBits(CODECS[baseline], config, name)
    else:
        return
    lineup.add(candidate, Description(name=name, what=what, clip_frames=length))


def _rate(config: vidtok.TokenizerConfig) -> tuple[int, int, float]:
    return config.temporal_factor, config.spatial_factor, bits_per_cell(config, LATENT_BITS)


def _seed(clip_id: str) -> int:
    return int(hashlib.sha256(clip_id.encode()).hexdigest()[:8], 16)
