"""Spans of stored clips: their first frames, and windows of whole videos.

The first 1 + k latent frames of a causal tokenizer are exactly those of the first 1 + k·f frames
alone. A slice from the middle is not: its latents depend on the frames before it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.dataset.schema import TokenizerColumn
from pipeline.errors import ConfigError
from pipeline.records import Bucket


@dataclass(frozen=True, slots=True)
class Prefix:
    """The first frames of each clip."""

    frames: int
    """Number of frames."""

    def latent_frames(self, column: TokenizerColumn) -> int:
        """Return the number of latent frames of a causal column."""
        assert column.causal_factor is not None
        return 1 + (self.frames - 1) // column.causal_factor

    def padded_frames(self, num_frames: int, padded_frames: int) -> int:
        """Return how many of the frames are copies of the last frame of the source."""
        return max(0, self.frames - (num_frames - padded_frames))


@dataclass(frozen=True, slots=True)
class Window:
    """A run of latent frames of each whole video."""

    latent_frames: int
    """Number of latent frames."""
    factor: int
    """Number of the video's frames per latent frame."""
    every: int = 1
    """Step through the video's frames that the tokenizer gets."""

    def first(self, draw: int, num_frames: int) -> int:
        """Return the first latent frame of a window in a video, by a random number; 0 for 0."""
        return draw % (-(-num_frames // self.factor) - self.latent_frames + 1)

    def first_frame(self, latent_frame: int, num_frames: int) -> int:
        """Return the first frame that a latent frame stands for.

        All latent frames but the first stand for equally many frames, and the last ends with the
        video.
        """
        following = -(-num_frames // self.factor) - latent_frame
        taken = -(-num_frames // self.every)
        return max(0, taken * self.every - following * self.factor)


def prefix_of(
    frames: int, columns: Mapping[str, TokenizerColumn], buckets: Sequence[str]
) -> Prefix | None:
    """Return the first frames of the clips of some buckets; None if these are all frames.

    Args:
        frames: number of frames.
        columns: tokenizers that are read, by name of their cell columns.
        buckets: names of the buckets that are read.

    Raises:
        ConfigError: a column or bucket does not hold the latents of such clips.
    """
    what = f"frames = {frames}"
    if frames < 1:
        raise ConfigError(f"{what}: must be 1 or more")
    stored = {name: Bucket.named(name).frames for name in buckets}
    if whole := [name for name, length in stored.items() if not length]:
        raise ConfigError(
            f'{what}: bucket {whole[0]} holds whole videos; use window=… and start="first", which'
            " counts latent frames"
        )
    if short := [name for name, length in stored.items() if length < frames]:
        longer = ", ".join(name for name, length in stored.items() if length >= frames)
        raise ConfigError(
            f"{what}: bucket {short[0]} holds clips of {stored[short[0]]} frames; buckets that are"
            f" long enough: {longer or 'none'}"
        )
    if all(length == frames for length in stored.values()):
        return None
    causal = [name for name, column in columns.items() if column.causal_factor]
    for name, column in columns.items():
        if (f := column.causal_factor) is None:
            raise ConfigError(
                f"{what}: column {name}: {column.model} is not known to be causal, so the latents"
                f" of shorter clips are not known; causal columns: {', '.join(causal) or 'none'}"
            )
        if rest := (frames - 1) % f:
            raise ConfigError(
                f"{what}: column {name} has {f} frames per latent frame after the first: use"
                f" {frames - rest} or {frames - rest + f}"
            )
        if odd := [bucket for bucket, length in stored.items() if (length - 1) % f]:
            raise ConfigError(
                f"{what}: column {name}: clips of bucket {odd[0]} do not have 1 + {f}k frames, so"
                " their first latent frame is not that of one frame; choose others with buckets=…"
            )
    return Prefix(frames)


def window_of(
    latent_frames: int,
    start: Literal["first", "random"],
    columns: Mapping[str, TokenizerColumn],
    buckets: Sequence[str],
) -> Window:
    """Return the windows of whole videos; arguments and errors as of `prefix_of`."""
    what = f"window = {latent_frames}"
    if latent_frames < 1:
        raise ConfigError(f"{what}: must be 1 or more latent frames")
    if start not in ("first", "random"):
        raise ConfigError(f"start = {start!r}: must be first or random")
    if clips := [name for name in buckets if Bucket.named(name).frames]:
        raise ConfigError(
            f"{what}: bucket {clips[0]} holds clips of one length, not whole videos; use frames=…"
        )
    steps = {(column.causal_factor, column.every) for column in columns.values()}
    factor, every = next(iter(steps), (None, 1))
    if len(steps) != 1 or factor is None:
        listed = ", ".join(
            f"{name} {column.causal_factor or 'unknown'}" for name, column in columns.items()
        )
        raise ConfigError(
            f"{what}: needs columns of causal tokenizers with one number of frames per latent"
            f" frame: {listed or 'none is read'}"
        )
    return Window(latent_frames, factor, every)
