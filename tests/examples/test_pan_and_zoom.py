"""Clips made out of photographs: how many, of which size, and how bright."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from examples import pan_and_zoom


def made(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> list[np.ndarray]:
    """Return the frames [T, H, W, 3] of the clips of one of two photographs; the other is red."""
    photo, red = folder / "photo.png", folder / "red.png"
    Image.new("RGB", (160, 120), (255, 0, 0)).save(red)
    y, x = np.mgrid[0:120, 0:160]
    Image.fromarray(np.stack([x + 60, 200 - y, x + y], -1).clip(0, 255).astype(np.uint8)).save(
        photo
    )
    out = folder / "clips"
    size = ["--seconds=1", "--fps=6", "--height=32", "--width=48"]
    named = ["pan_and_zoom", str(photo), str(red), f"--out={out}", *size, *options]
    monkeypatch.setattr(sys, "argv", named)
    pan_and_zoom.main()
    clips = []
    for path in sorted(out.glob("photo-*.mp4")):
        with av.open(str(path)) as container:
            clips.append(
                np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
            )
    return clips


def test_a_photograph_gives_clips_that_move(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second = made(monkeypatch, tmp_path)
    assert first.shape == second.shape == (6, 32, 48, 3)
    for clip in (first, second):
        assert np.abs(clip[-1].astype(int) - clip[0]).mean() > 2
    assert np.abs(first.astype(int) - second).mean() > 2


def test_darker_clips_have_the_same_views(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for folder in ("bright", "dark"):
        (tmp_path / folder).mkdir()
    [bright] = made(monkeypatch, tmp_path / "bright", "--clips=1")
    [dark] = made(monkeypatch, tmp_path / "dark", "--clips=1", "--darkest=0.2")
    light = dark.mean() / bright.mean()
    assert 0.2 <= light < 0.95
    assert np.abs(bright * light - dark).mean() < 3


def test_shots_are_cut_at_random_frames_to_random_photographs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clips = made(monkeypatch, tmp_path, "--clips=12", "--shots=2")
    red = [(clip[..., 1].mean((1, 2)) < 20).tolist() for clip in clips]
    assert not any(frames[0] for frames in red)
    cuts = [frames.index(True) for frames in red if frames[-1]]
    assert 2 <= len(cuts) <= 10
    assert len(set(cuts)) > 1
    assert sum(map(sum, red)) == sum(6 - cut for cut in cuts), "a shot stays"
