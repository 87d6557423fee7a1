"""VMAF, measured by libvmaf with its built-in model, through a static ffmpeg.

VMAF (Netflix, https://github.com/Netflix/vmaf) predicts the viewers' rating of a picture, from 0 to
100, at 1080 lines and a distance of three picture heights. For clips of 128 or 256 pixels it only
ranks: scores are comparable at one size only.

Both sides are rounded to 8 bits and passed as raw RGB. ffmpeg converts both to 4:2:0, and VMAF uses
the luma.
"""

import json
import subprocess
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from pipeline.errors import PipelineError
from pipeline.tokenizers.reconstruction import as_bytes

MODEL: Final = "vmaf_v0.6.1"


SHORTEST_SIDE: Final = 17
"""Minimum height and width in pixels. On smaller pictures libvmaf crashes."""


_RATE: Final = 30
"""Frames per second for ffmpeg; the model does not use time."""


class Vmaf:
    """Runs ffmpeg once per clip.

    Raises:
        ImportError: `imageio_ffmpeg` is not installed.
        FileNotFoundError: its ffmpeg is missing or has no libvmaf.
        PipelineError: its ffmpeg cannot run.
    """

    def __init__(self) -> None:
        try:
            package = import_module("imageio_ffmpeg")
        except ImportError as error:
            raise ImportError(
                "VMAF needs imageio_ffmpeg: pip install 'vidtok-pipeline[evaluate]'"
            ) from error
        try:
            self._ffmpeg = str(package.get_ffmpeg_exe())
        except RuntimeError as error:
            raise FileNotFoundError(f"VMAF needs ffmpeg: {error}") from error
        filters = _run([self._ffmpeg, "-hide_banner", "-filters"])
        if " libvmaf " not in filters:
            raise FileNotFoundError(
                f"VMAF: {self._ffmpeg} has no libvmaf; unset IMAGEIO_FFMPEG_EXE"
            )
        self.version = "unknown"
        """Version of libvmaf, known after the first clip."""

    def __call__(self, original: Tensor, reconstruction: Tensor) -> Tensor:
        """Return the score of each frame, float64 `[1, T]`.

        Args:
            original: float `[1, 3, T, H, W]` in [-1, 1].
            reconstruction: the same shape; clamped.

        Raises:
            PipelineError: ffmpeg fails, or does not score every frame.
        """
        _, _, length, height, width = original.shape
        with tempfile.TemporaryDirectory(prefix="vmaf-") as folder:
            sides = []
            for name, video in (("reconstruction", reconstruction), ("original", original)):
                path = Path(folder, f"{name}.rgb")
                path.write_bytes(as_bytes(video).tobytes())
                sides += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
                sides += ["-r", str(_RATE), "-i", str(path)]
            log = Path(folder, "log.json")
            # A colon ends an argument of a filter, so those in the path are escaped.
            to = str(log).replace("\\", "/").replace(":", r"\\:")
            graph = (
                "[0:v]format=yuv420p[a];[1:v]format=yuv420p[b];"
                f"[a][b]libvmaf=model=version={MODEL}:n_threads=1:log_fmt=json:log_path={to}"
            )
            _run([self._ffmpeg, "-hide_banner", *sides, "-lavfi", graph, "-f", "null", "-"])
            report = json.loads(log.read_text())
        self.version = str(report["version"])
        scores = [frame["metrics"]["vmaf"] for frame in report["frames"]]
        if len(scores) != length:
            raise _failed(f"libvmaf scored {len(scores)} of {length} frames")
        return torch.tensor([scores], dtype=torch.float64)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise _failed(str(error)) from error
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise _failed(f"{command[0]}: exit code {done.returncode}: {reason[0]}")
    return done.stdout


def _failed(why: str) -> PipelineError:
    return PipelineError(f"vmaf: {why}; repair ffmpeg, or leave vmaf out of metrics")
