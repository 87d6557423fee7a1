"""Metrics of an evaluation: those with installed networks and tools, and reasons for the others.

PSNR, SSIM, LPIPS and VMAF are measured on each frame. Distances between sets use features of I3D
(FVD) and of TransNetV2 (FD-TransNetV2), of originals and of reconstructions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import Tensor

from pipeline.errors import ConfigError, message_of
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.vmaf import MODEL, SHORTEST_SIDE, Vmaf
from vidtok.evaluation import fvd, transnet
from vidtok.evaluation.meter import score_clip
from vidtok.lpips import load_lpips

T = TypeVar("T")


FVD_FRAMES: Final = 16
"""Number of frames of FVD's clips of a whole video. LPIPS takes as many at once, which bounds its
memory."""


class Measures:
    """Opens the metrics that a configuration requests.

    Args:
        config: the evaluation.
        lengths: numbers of frames in the clips, None for whole videos.
        device: device of the networks.

    Raises:
        ConfigError: a file of weights cannot be loaded.
    """

    def __init__(
        self, config: EvaluationConfig, lengths: list[int | None], device: torch.device | str
    ) -> None:
        self.absent: dict[str, str] = {}
        """Reasons why requested metrics are missing, by name."""
        self._device = device
        self._asked = config.metrics
        paths = {name: path and Path(path) for name, path in config.metric_weights}
        self._lpips = self._open(
            "lpips", lambda: load_lpips(paths["vgg16"], paths["lpips_heads"]).to(device)
        )
        side = min(config.clip.height, config.clip.width)
        self._vmaf = self._open("vmaf", Vmaf) if side >= SHORTEST_SIDE else None
        if "vmaf" in self._asked and side < SHORTEST_SIDE:
            self.absent["vmaf"] = f"sides of {side} pixels; VMAF needs {SHORTEST_SIDE} or more"
        self._features: dict[str, Callable[[Tensor], Tensor]] = {}
        shortest = min((length for length in lengths if length), default=fvd.MIN_FRAMES)
        if "fvd" in self._asked and shortest < fvd.MIN_FRAMES:
            self.absent["fvd"] = f"clips of {shortest} frames; I3D needs {fvd.MIN_FRAMES} or more"
        elif i3d := self._open("fvd", lambda: fvd.load_i3d(paths["i3d"], device)):
            self._features["fvd"] = lambda video: fvd.features(i3d, video)
        if net := self._open("fd_transnetv2", lambda: transnet.load_transnet(device)):
            self._features["fd_transnetv2"] = lambda video: transnet.features(net, video)

    def _open(self, metric: str, load: Callable[[], T]) -> T | None:
        if metric not in self._asked:
            return None
        try:
            return load()
        except (FileNotFoundError, ImportError) as error:
            self.absent[metric] = message_of(error)
            return None
        except Exception as error:  # a wrong file can raise anything
            raise ConfigError(
                f"metric_weights: {metric}: cannot be loaded: {error}; give other weights, or leave"
                f" {metric} out of metrics"
            ) from error

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the tools."""
        return {"vmaf": f"{MODEL}, libvmaf {self._vmaf.version}"} if self._vmaf else {}

    def score(self, original: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """Return the requested scores of each frame, `[1, T]` by metric.

        Args:
            original: `[1, 3, T, H, W]` in [-1, 1].
            reconstruction: the same shape; clamped.
        """
        pieces = [
            score_clip(x, y, self._lpips)
            for x, y in zip(_pieces(original), _pieces(reconstruction), strict=True)
        ]
        scores: dict[str, Tensor] = {
            name: torch.cat([piece[name] for piece in pieces], 1)
            for name in pieces[0]
            if name in self._asked
        }
        if self._vmaf is not None:
            scores["vmaf"] = self._vmaf(original, reconstruction)
        return scores

    def features(self, video: Tensor, *, whole: bool) -> dict[str, Tensor]:
        """Return features `[N, D]` of a clip by the metric that uses them.

        A whole video that is shorter than FVD's clips has none: N is 0.
        """
        found = {}
        for metric, extract in self._features.items():
            if metric != "fvd" or not whole:
                found[metric] = extract(video)
                continue
            clips = [clip for clip in _pieces(video) if clip.shape[2] == FVD_FRAMES]
            none = torch.zeros(0, fvd.DIMENSIONS)
            found[metric] = torch.cat([none, *(extract(clip) for clip in clips)])
        return found


def _pieces(video: Tensor) -> tuple[Tensor, ...]:
    return torch.split(video, FVD_FRAMES, dim=2)
