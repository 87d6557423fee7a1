"""The metrics of an evaluation: those whose networks and tools are there, and why others are not.

Per clip: PSNR, SSIM, LPIPS and VMAF of each frame. For distances between sets: features of I3D
(FVD) and of TransNetV2 (FD-TransNetV2), of originals and of reconstructions alike.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.evaluation.config import EvaluationConfig
from pipeline.evaluation.vmaf import MODEL, Vmaf
from vidtok.evaluation import fvd, transnet
from vidtok.evaluation.meter import score_clip
from vidtok.lpips import load_lpips

T = TypeVar("T")


_PIECE_FRAMES: Final = 16
"""Frames that go through LPIPS at once, so that whole videos do not fill the memory; also the
length of FVD's clips where a video is whole."""


class Measures:
    """Opens what a configuration asks for.

    Args:
        config: the evaluation.
        lengths: frames of the clips that will come, None for whole videos.
        device: where the networks compute.

    Raises:
        ConfigError: a file of weights is there and holds something else.
    """

    def __init__(
        self, config: EvaluationConfig, lengths: list[int | None], device: torch.device | str
    ) -> None:
        self.absent: dict[str, str] = {}
        """Why a metric that was asked for is missing, by its name."""
        self._device = device
        self._asked = config.metrics
        paths = {name: path and Path(path) for name, path in config.metric_weights}
        self._lpips = self._open(
            "lpips", lambda: load_lpips(paths["vgg16"], paths["lpips_heads"]).to(device)
        )
        self._vmaf = self._open("vmaf", Vmaf)
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
            self.absent[metric] = " ".join(str(error).split())
            return None
        except Exception as error:  # whatever a file can be that is not what it should be
            raise ConfigError(f"metric_weights: {metric}: cannot be loaded: {error}") from error

    @property
    def versions(self) -> dict[str, str]:
        """What the tools say of themselves."""
        return {"vmaf": f"{MODEL}, libvmaf {self._vmaf.version}"} if self._vmaf else {}

    def score(self, original: Tensor, reconstruction: Tensor) -> dict[str, Tensor]:
        """Return what is asked for of each frame, `[1, T]` by metric.

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
        """Return features `[N, D]` of a clip by the distance that is made of them."""
        found = {}
        for metric, extract in self._features.items():
            clips = [video]
            if metric == "fvd" and whole:
                clips = [clip for clip in _pieces(video) if clip.shape[2] == _PIECE_FRAMES]
            found[metric] = torch.cat([extract(clip) for clip in clips])
        return found


def _pieces(video: Tensor) -> tuple[Tensor, ...]:
    return torch.split(video, _PIECE_FRAMES, dim=2)
