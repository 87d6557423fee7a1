"""What a tokenizer is to the pipeline: its facts, and how it encodes and decodes.

VidTok, the autoencoders of diffusers and those of other packages implement `VideoTokenizer`.
Letters: `B` batch, `T H W` frames and pixels, `Z` latent channels, `t h w` cells of the latent.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import TypeAdapter
from torch import Tensor, nn

from pipeline.dataset.schema import Normalize
from vidtok import Encoded

__all__ = [
    "ChunkedTokenizer",
    "EncodeStream",
    "Encoded",
    "Facts",
    "Lengths",
    "Normalize",
    "VideoTokenizer",
]


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

    def latent_shape(self, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return (Z, t, h, w) of a clip.

        Raises:
            ValueError: the tokenizer does not take such a clip.
        """
        s = self.spatial_factor
        if frames not in self.lengths or height % s or width % s or min(height, width) < s:
            raise ValueError(f"{frames}x{height}x{width}: not a clip that the tokenizer takes")
        return self.channels, -(-frames // self.temporal_factor), height // s, width // s

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without `causal`."""
        return {name: value for name, value in asdict(self).items() if name != "causal"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Facts":
        """Return the facts that `to_dict` gave the values of.

        Raises:
            ValueError: a field is unknown, missing or of another type.
        """
        return _FACTS.validate_python(values)


_FACTS = TypeAdapter(Facts)


@runtime_checkable
class VideoTokenizer(Protocol):
    """A video tokenizer. Calls of one object are never concurrent.

    On a GPU, `encode` should only queue work: reading a value back waits for all queued work.
    """

    @property
    def facts(self) -> Facts:
        """Facts of the tokenizer."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Everything besides weights that decides its cells, JSON-like, without paths."""
        ...

    def encode(self, video: Tensor) -> Encoded:
        """Encode clips of valid length and size.

        Args:
            video: `[B, 3, T, H, W]` float32 in [-1, 1], of any strides, on the module's device.

        Returns:
            `latent` float32 `[B, Z, t, h, w]`; for the kind `indices` also `indices`, int32
            `[B, t, h, w]`; for `latents` the same tensor as `mean`, and `logvar` if the facts say
            so. The module's dtype decides the arithmetic.
        """
        ...

    def decode(self, cells: Tensor, num_frames: int) -> Tensor:
        """Decode what the column holds.

        Args:
            cells: indices `[B, t, h, w]`, integers; or latents `[B, Z, t, h, w]`, float.
            num_frames: T of the clip that was encoded.

        Returns:
            `[B, 3, T, H, W]` near [-1, 1], not clamped.
        """
        ...

    def module(self) -> nn.Module:
        """Return the network: its tensors give the digest, and `to` places it."""
        ...


class EncodeStream(Protocol):
    """Encoder of one clip whose frames arrive in pieces."""

    def push(self, video: Tensor) -> Encoded | None:
        """Take frames `[B, 3, n, H, W]`; return the next latent frames, None if there are none."""
        ...


class ChunkedTokenizer(VideoTokenizer, Protocol):
    """A video tokenizer whose facts say `chunkable`."""

    def encode(
        self, video: Tensor, chunk_frames: int | None = None, as_reference: bool = False
    ) -> Encoded:
        """Encode clips as `VideoTokenizer.encode`, some frames at a time.

        Args:
            video: as there.
            chunk_frames: frames at a time, a multiple of the temporal factor. None: all.
            as_reference: repeat the chunking of a published reference, accidents included.
        """
        ...

    def decode(
        self,
        cells: Tensor,
        num_frames: int,
        chunk_frames: int | None = None,
        as_reference: bool = False,
    ) -> Tensor:
        """Decode as `VideoTokenizer.decode`, some frames at a time; arguments as `encode`."""
        ...

    def encode_stream(self, num_frames: int, chunk_frames: int) -> EncodeStream:
        """Begin a clip of `num_frames` frames whose frames arrive in pieces."""
        ...
