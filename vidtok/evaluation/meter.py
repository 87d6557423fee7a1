"""Fidelity of clips, and its means over videos and over whole sets.

The score of a set is the mean over all its frames, not over videos or clips, as in VidTok's
published tables (arXiv 2412.13061).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from vidtok.evaluation.fidelity import psnr, ssim


@torch.no_grad()
def score_clip(
    original: Tensor,
    reconstruction: Tensor,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Compare clips frame by frame.

    The reconstruction is clamped to [-1, 1]; neither side is rounded to 8 bits.

    Args:
        original: float `[B, 3, T, H, W]` in [-1, 1].
        reconstruction: the same shape.
        lpips: network of `vidtok.lpips`, which maps `[N, 3, H, W]` twice to `[N]`. None omits
            LPIPS.

    Returns:
        `psnr`, `ssim` and, with a network, `lpips`: float32 `[B, T]` each.

    Raises:
        ValueError: the shapes differ.
    """
    if original.dim() != 5 or original.shape != reconstruction.shape:
        raise ValueError(
            f"clips of shapes {list(original.shape)} and {list(reconstruction.shape)}: "
            "two equal shapes [B, 3, T, H, W] are needed"
        )
    batch, _, frames = original.shape[:3]
    x, y = (
        clips.float().transpose(1, 2).flatten(0, 1)
        for clips in (original, reconstruction.clamp(-1, 1))
    )
    x_unit, y_unit = (x + 1) / 2, (y + 1) / 2
    scores = {"psnr": psnr(x_unit, y_unit), "ssim": ssim(x_unit, y_unit)}
    if lpips is not None:
        scores["lpips"] = lpips(x, y)
    return {name: values.reshape(batch, frames) for name, values in scores.items()}


@dataclass(frozen=True)
class _Clip:
    """Number of frames in one clip, and the sum of each score over them."""

    video: str
    frames: int
    sums: dict[str, float]


@dataclass
class ClipScores:
    """Scores of many clips, with one record per clip.

    Every mean is a correctly rounded sum over clips. So it depends neither on their order nor on
    their distribution over workers.
    """

    clips: list[_Clip] = field(default_factory=list)

    def add(self, video: str, scores: dict[str, Tensor], frames: int | None = None) -> None:
        """Add the clips of one video, as `score_clip` returns them.

        Args:
            video: name of the video.
            scores: `[B, T]` for each metric. Without a metric, one clip is added.
            frames: T; needed only without a metric.

        Raises:
            ValueError: the metrics differ from those of earlier clips.
        """
        self._check(set(scores))
        rows = {name: values.double().cpu() for name, values in scores.items()}
        batch, length = next((values.shape for values in rows.values()), (1, frames or 0))
        for i in range(batch):
            sums = {name: math.fsum(values[i].tolist()) for name, values in rows.items()}
            self.clips.append(_Clip(video, length, sums))

    def merge(self, other: "ClipScores") -> None:
        """Add the clips of another object.

        Raises:
            ValueError: its metrics differ.
        """
        if other.clips:
            self._check(set(other.clips[0].sums))
        self.clips.extend(other.clips)

    def mean(self) -> dict[str, float]:
        """Return the mean of each metric over all frames of all clips; empty without clips."""
        return _mean(self.clips)

    def by_video(self) -> dict[str, dict[str, float]]:
        """Return the means of each video over its frames, in alphabetical order."""
        groups: dict[str, list[_Clip]] = {}
        for clip in self.clips:
            groups.setdefault(clip.video, []).append(clip)
        return {video: _mean(groups[video]) for video in sorted(groups)}

    def frames(self) -> int:
        """Return the number of compared frames."""
        return sum(clip.frames for clip in self.clips)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, which `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ClipScores":
        """Return the scores that `to_dict` gave the values of."""
        return cls([_Clip(**clip) for clip in values["clips"]])

    def _check(self, metrics: set[str]) -> None:
        if self.clips and (known := set(self.clips[0].sums)) != metrics:
            raise ValueError(f"metrics {sorted(metrics)} beside clips that have {sorted(known)}")


def _mean(clips: list[_Clip]) -> dict[str, float]:
    frames = sum(clip.frames for clip in clips)
    metrics = clips[0].sums if clips else {}
    return {name: math.fsum(clip.sums[name] for clip in clips) / frames for name in metrics}
