"""The definition of one tokenizer: a frozen, hashable record, and the shapes that follow from it.

Letters used throughout the package: `B` batch, `C` channels, `T H W` frames and pixels of a clip,
`Z` latent channels, `t h w` cells of the latent. Source: VidTok, arXiv 2412.13061.
"""

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from vidtok.time_rule import RULES, TimeRule

Network = Literal["causal_v1_0", "causal_v1_1", "noncausal"]

_TEXTS = ("name", "network", "regularizer")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Hyper-parameters of one tokenizer.

    Causal networks of v1.0 and v1.1 with equal hyper-parameters have identical tensors: only
    `network` tells them apart.

    Raises:
        ValueError: the fields contradict each other.
    """

    name: str
    """Name of the tokenizer; no part of `digest`."""
    network: Network
    """Network, which decides how time is treated."""
    regularizer: Literal["fsq", "kl"]
    """Regularizer of the latent: FSQ gives code indices, KL a normal distribution."""
    z_channels: int
    """Number of latent channels Z."""
    fsq_levels: tuple[int, ...] = ()
    """Number of levels of each latent channel (FSQ). Empty for KL."""
    ch: int = 128
    """Base width in channels: level l has `ch * ch_mult[l]` channels."""
    ch_mult: tuple[int, ...] = (1, 2, 4, 4)
    """Factors of the base width, one per level."""
    num_res_blocks: int = 2
    """Number of pairs of blocks (spatial, temporal) per encoder level. The decoder has one more."""
    spatial_ds: tuple[int, ...] | None = None
    """Encoder levels that halve height and width. None selects all but the last."""
    spatial_us: tuple[int, ...] | None = None
    """Decoder levels that double height and width. None selects all but level 0."""
    tempo_ds: tuple[int, ...] | None = None
    """Encoder levels that halve time. None selects the last two before the last level."""
    tempo_us: tuple[int, ...] | None = None
    """Decoder levels that double time. None selects levels 1 and 2."""

    def __post_init__(self) -> None:
        levels = len(self.ch_mult)
        defaults = {
            "spatial_ds": tuple(range(levels - 1)),
            "spatial_us": tuple(range(1, levels)),
            "tempo_ds": (levels - 3, levels - 2),
            "tempo_us": (1, 2),
        }
        for field, default in defaults.items():
            given = getattr(self, field)
            object.__setattr__(self, field, default if given is None else tuple(sorted(given)))
        if self.network not in RULES:
            raise ValueError(f"network = {self.network!r}: must be one of {', '.join(RULES)}")
        if (self.regularizer == "fsq") != bool(self.fsq_levels):
            raise ValueError("fsq_levels: FSQ needs the levels of each channel, KL has none")
        if self.fsq_levels and len(self.fsq_levels) != self.z_channels:
            raise ValueError(
                f"fsq_levels has {len(self.fsq_levels)} entries for z_channels = {self.z_channels}"
            )
        if any(level < 2 for level in self.fsq_levels):
            raise ValueError(
                f"fsq_levels = {self.fsq_levels}: every channel needs 2 levels or more"
            )
        for coarse, fine in ((self.tempo_ds, self.spatial_ds), (self.tempo_us, self.spatial_us)):
            if not set(coarse or ()) <= set(fine or ()):
                raise ValueError("time is resampled only at levels that also resample space")
        if len(self.tempo_ds or ()) != len(self.tempo_us or ()):
            raise ValueError("tempo_ds and tempo_us must have the same number of levels")
        if len(self.spatial_ds or ()) != len(self.spatial_us or ()):
            raise ValueError("spatial_ds and spatial_us must have the same number of levels")

    @property
    def time_rule(self) -> TimeRule:
        """Rule by which the network treats the beginning and the end of a clip."""
        return RULES[self.network]

    @property
    def causal(self) -> bool:
        """Whether a latent frame depends on no later frame of the clip."""
        return self.time_rule.causal

    @property
    def temporal_factor(self) -> int:
        """Number of frames per latent frame, f."""
        return int(2 ** len(self.tempo_ds or ()))

    @property
    def spatial_factor(self) -> int:
        """Number of pixels per latent cell, in height and in width."""
        return int(2 ** len(self.spatial_ds or ()))

    @property
    def encoder_channels(self) -> int:
        """Number of channels of the encoder's output: Z for FSQ, 2Z (mean, log-variance) for KL."""
        return self.z_channels * (2 if self.regularizer == "kl" else 1)

    @property
    def codebook_size(self) -> int | None:
        """Number of different code indices (FSQ), or None for KL."""
        return math.prod(self.fsq_levels) if self.fsq_levels else None

    def level_elements(
        self, level: int, frames: int, height: int, width: int, *, decoder: bool
    ) -> int:
        """Return an upper bound of the elements of the largest activation of a level of one clip.

        Args:
            level: level of the encoder or of the decoder; level 0 has the most pixels.
            frames: number of frames that the network processes.
            height: in pixels.
            width: in pixels.
            decoder: whether the level is one of the decoder.
        """
        halved = self.spatial_us if decoder else self.spatial_ds
        shorter = self.tempo_us if decoder else self.tempo_ds
        side, time = (1 << sum(n < level for n in found or ()) for found in (halved, shorter))
        cells = -(-frames // time) * -(-height // side) * -(-width // side)
        return self.ch * self.ch_mult[level] * cells

    def clip_elements(self, frames: int, height: int, width: int) -> int:
        """Return an upper bound of the elements of the largest activation of one clip."""
        size = frames + 2 * self.temporal_factor, height, width
        return max(
            self.level_elements(level, *size, decoder=decoder)
            for level in range(len(self.ch_mult))
            for decoder in (False, True)
        )

    def check_frames(self, frames: int) -> None:
        """Refuse a length that the network would silently cut or shift.

        Raises:
            ValueError: the length is refused; the text has the rule and the nearest valid lengths.
        """
        f, rule = self.temporal_factor, self.time_rule
        rest = rule.length_remainder
        if frames >= 1 and (rest is None or (frames % f == rest % f and frames >= max(rest, 1))):
            return
        if rest is None:
            raise ValueError(f"frames = {frames}: {self.name} takes 1 frame or more")
        least = rest or f
        below = max(least, frames - (frames - rest) % f)
        above = max(least, below + f)
        near = " or ".join(str(n) for n in sorted({below, above}))
        takes = f"{rest} + {f}k frames" if rest else f"a multiple of {f} frames"
        raise ValueError(f"frames = {frames}: {self.name} takes {takes}; use {near}")

    def check_size(self, height: int, width: int) -> None:
        """Refuse a height or width that is not a multiple of the spatial factor.

        Raises:
            ValueError: the size is refused; the text has the side and the nearest valid values.
        """
        s = self.spatial_factor
        for side, n in (("height", height), ("width", width)):
            if n < s or n % s:
                below = max(s, n // s * s)
                near = " or ".join(str(m) for m in sorted({below, max(s, -(-n // s) * s)}))
                raise ValueError(
                    f"{side} = {n}: {self.name} takes a multiple of {s} pixels; use {near}"
                )

    def check_tile(self, tile: int | str | None) -> None:
        """Refuse a tile that is not a side in pixels, `auto` or None.

        Raises:
            ValueError: the tile is refused; the text has the nearest valid values.
        """
        if tile is None or tile == "auto":
            return
        if isinstance(tile, bool) or not isinstance(tile, int):
            raise ValueError(f"tile = {tile!r}: must be a number of pixels, 'auto' or None")
        s = self.spatial_factor
        if tile < s or tile % s:
            near = " or ".join(
                str(n) for n in sorted({max(s, tile // s * s), max(s, -(-tile // s) * s)})
            )
            raise ValueError(
                f"tile = {tile}: {self.name} takes a multiple of {s} pixels; use {near}"
            )

    def latent_frames(self, frames: int) -> int:
        """Return t for a clip of `frames` frames, a valid length."""
        self.check_frames(frames)
        return -(-frames // self.temporal_factor)

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (Z, t, h, w) for a clip of valid size.

        Raises:
            ValueError: as `check_frames` and `check_size`.
        """
        self.check_size(height, width)
        s = self.spatial_factor
        return self.z_channels, self.latent_frames(frames), height // s, width // s

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, including all defaults."""
        return {
            k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TokenizerConfig":
        """Return the configuration that `to_dict` gave the values of.

        Raises:
            ValueError: a field is unknown, missing or of another type.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown fields of a tokenizer's configuration: {', '.join(unknown)}")
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        for k, v in fields.items():
            texts, numbers = k in _TEXTS, v if isinstance(v, tuple) else (v,)
            if v is not None and not all(type(n) is (str if texts else int) for n in numbers):
                raise ValueError(f"{k} = {v!r}: must be {'a text' if texts else 'whole numbers'}")
        try:
            return cls(**fields)
        except TypeError as error:
            raise ValueError(f"incomplete configuration of a tokenizer: {error}") from error

    @cached_property
    def digest(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of all fields except the name."""
        values = self.to_dict()
        del values["name"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
