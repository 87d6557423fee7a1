"""Facts of a tokenizer, which decide what clips it takes; without torch, for checks of settings.

Letters: `Z` latent channels, `T` frames, `t h w` cells of the latent.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open

from pipeline.config.job import TokenizerSpec
from pipeline.dataset.metadata import Digest
from pipeline.dataset.schema import Normalize
from vidtok.config import TokenizerConfig
from vidtok.digest import tensors_digest
from vidtok.presets import PRESETS, bundled_weights

COMPILER: Final = "inductor"
"""Name of torch's compiler for `compile: true`, as the identity of a dataset has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Rule of valid lengths: T ≥ `least` whose remainder modulo `multiple` is in `remainders`."""

    multiple: int = 1
    """Modulus of the rule. 1 allows every length."""
    remainders: tuple[int, ...] = (0,)
    """Valid remainders of a length modulo `multiple`, sorted."""
    least: int = 1
    """Smallest valid length in frames."""

    def __contains__(self, frames: int) -> bool:
        return frames >= self.least and frames % self.multiple in self.remainders

    def __str__(self) -> str:
        if self.multiple == 1:
            return f"{self.least} frame{'s' * (self.least > 1)} or more"
        if self.remainders == (0,):
            return f"a multiple of {self.multiple} frames"
        rules = (
            f"{rest} + {self.multiple}k" if rest else f"{self.multiple}k"
            for rest in self.remainders
        )
        return f"{' or '.join(rules)} frames"

    def near(self, frames: int, every: int = 1) -> list[int]:
        """Return the valid lengths next to a length: one below and one above, where they exist.

        Args:
            frames: the length.
            every: step through the frames. The number of frames that it leaves is also valid.
        """
        span = range(frames, frames + every * (self.least + self.multiple) + 1)
        found = []
        for candidates in (range(frames, 0, -1), span):
            valid = (n for n in candidates if n in self and -(-n // every) in self)
            found += [n for n in (next(valid, None),) if n is not None]
        return sorted(set(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts of a video tokenizer. They are part of a dataset's identity, as JSON."""

    kind: Literal["indices", "latents"]
    """Kind of cells: code indices `[t, h, w]`, or latents `[Z, t, h, w]`."""
    channels: int
    """Number of latent channels Z."""
    codebook_size: int | None = None
    """Number of different code indices. None for latents."""
    levels: tuple[int, ...] = ()
    """Number of levels of each channel (FSQ), of which an index is the mixed-radix number with the
    first channel the fastest. Empty for latents and for learned codebooks."""
    temporal_factor: int
    """Number of frames per latent frame, f: T frames have ⌈T / f⌉ latent frames."""
    spatial_factor: int
    """Number of pixels per latent cell, in height and in width."""
    lengths: Lengths = Lengths()
    """Rule of the lengths T for which decoding gives T frames again."""
    chunkable: bool = False
    """Whether it is a `ChunkedTokenizer`, which encodes a clip in pieces exactly."""
    logvar: bool = False
    """Whether latents are means of a posterior whose log-variance `encode` can return."""
    normalize: Normalize | None = None
    """Normalisation that the generator's authors apply to latents. None if there is none."""
    causal: bool = False
    """Whether no latent frame depends on later frames: the first 1 + k latent frames of 1 + f·n
    frames are those of the first 1 + f·k frames alone. It changes no cell, so it is recorded in
    `TokenizerColumn.causal_factor` and not in the identity."""
    tileable: bool = False
    """Whether it is a `TiledTokenizer`, which processes pictures in tiles exactly. It changes no
    cell, so it is not in the identity."""

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (Z, t, h, w) of a clip.

        Raises:
            ValueError: the tokenizer does not take such a clip.
        """
        s = self.spatial_factor
        if frames not in self.lengths or height % s or width % s or min(height, width) < s:
            raise ValueError(
                f"{frames}x{height}x{width}: the tokenizer does not take clips of this shape"
            )
        return self.channels, -(-frames // self.temporal_factor), height // s, width // s

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without `causal` and `tileable`."""
        left_out = ("causal", "tileable")
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Facts":
        """Return the facts that `to_dict` gave the values of.

        Raises:
            ValueError: a field is unknown, missing or of another type.
        """
        return _FACTS.validate_python(values)


_FACTS = TypeAdapter(Facts)


def vidtok_facts(config: TokenizerConfig) -> Facts:
    """Return the facts of a VidTok model."""
    f, rest = config.temporal_factor, config.time_rule.length_remainder
    lengths = Lengths()
    if rest is not None:
        lengths = Lengths(multiple=f, remainders=(rest % f,), least=rest or f)
    return Facts(
        kind="indices" if config.regularizer == "fsq" else "latents",
        channels=config.z_channels,
        codebook_size=config.codebook_size,
        levels=config.fsq_levels,
        temporal_factor=f,
        spatial_factor=config.spatial_factor,
        lengths=lengths,
        chunkable=config.time_rule.chunkable,
        logvar=config.regularizer == "kl",
        causal=config.causal,
        tileable=True,
    )


def vidtok_settings(config: TokenizerConfig) -> dict[str, Any]:
    """Return the configuration of a VidTok network, without its name."""
    return {name: value for name, value in config.to_dict().items() if name != "name"}


@dataclass(frozen=True, slots=True)
class Description:
    """What the driver keeps of a tokenizer."""

    facts: Facts
    config: Mapping[str, Any]
    digest: Digest
    channel_order: tuple[int, ...] = ()
    """FSQ channels by worth, if the settings ask for `channels`."""


def describe_bundled(spec: TokenizerSpec) -> Description | None:
    """Return what identifies weights of this package; None for other or damaged weights.

    It is also None with `channels`, whose file needs torch.

    Torch is not imported. The package's tests see to it that its weights fit their models, and
    each process that opens them compares their digest.
    """
    path = bundled_weights(spec.model) if spec.weights is None else None
    if path is None or spec.channels is not None:
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return None
    config = PRESETS[spec.model]
    digest = Digest(tensors_digest(tensors))
    return Description(vidtok_facts(config), vidtok_settings(config), digest)
