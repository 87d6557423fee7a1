"""VMAF comes from libvmaf, a score per frame, and falls with what viewers mind."""

import stat
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pipeline.errors import PipelineError
from pipeline.evaluation.vmaf import Vmaf
from tests.vidtok.deterministic import synthetic_video, unit_normal


def test_it_falls_with_blur_and_with_noise() -> None:
    video, vmaf = synthetic_video(1, 5, 64, 96), Vmaf()
    blurred = F.avg_pool3d(video, (1, 9, 9), 1, (0, 4, 4), count_include_pad=False)
    noisy = (video + 0.2 * unit_normal("noise", tuple(video.shape))).clamp(-1, 1)
    same, blur, noise = (vmaf(video, other) for other in (video, blurred, noisy))
    assert same.shape == blur.shape == (1, 5)
    assert same.min() > 90
    assert blur.mean() < same.mean() - 10
    assert noise.mean() < same.mean() - 10
    assert vmaf.version[0].isdigit()


def test_values_outside_of_the_range_are_clamped() -> None:
    video = synthetic_video(1, 3, 32, 32)
    vmaf = Vmaf()
    bright = video * 9
    torch.testing.assert_close(vmaf(video, bright), vmaf(video, bright.clamp(-1, 1)))


def test_an_ffmpeg_without_libvmaf_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = tmp_path / "ffmpeg"
    lacking.write_text("#!/bin/sh\necho ' ... psnr  VV->V '\n")
    lacking.chmod(lacking.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(lacking))
    with pytest.raises(FileNotFoundError, match="has no libvmaf; unset IMAGEIO_FFMPEG_EXE"):
        Vmaf()


def test_an_ffmpeg_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = tmp_path / "ffmpeg"
    listing = "case $* in *-filters*) echo ' ... libvmaf  VV->V ';; *) echo full >&2; exit 3;; esac"
    failing.write_text(f"#!/bin/sh\n{listing}\n")
    failing.chmod(failing.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(failing))
    vmaf, video = Vmaf(), synthetic_video(1, 3, 32, 32)
    says = "; repair ffmpeg, or leave vmaf out of metrics"
    with pytest.raises(PipelineError, match=f"^vmaf: {failing}: exit code 3: full{says}$"):
        vmaf(video, video)
    failing.unlink()
    with pytest.raises(PipelineError, match=f"^vmaf: .* No such file .*{says}$"):
        vmaf(video, video)
