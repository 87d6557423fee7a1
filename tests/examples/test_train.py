"""The example of a training learns from its videos what helps with another video."""

from pathlib import Path

import pytest

from pipeline.commands import main
from tests.pipeline.training.runs import rows

ROOT = Path(__file__).parents[2]
SMALLER = [
    "loaders=0",
    "validation.every=30",
    "validation.height=32",
    "validation.width=32",
    "stages.0.steps=24",
    "stages.0.batch=1",
    "stages.0.clips.frames=5",
    "stages.0.clips.short_side=32",
    "stages.1.steps=1",
    "stages.1.clips.frames=5",
    "stages.1.clips.height=32",
    "stages.1.clips.width=32",
]


def test_it_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["train", "examples/train.yaml", f"output={tmp_path}", *SMALLER]) == 0
    before, after = rows(tmp_path, of="held_out")
    assert after["psnr"] > before["psnr"] + 1, "far below what weights gain that were random"
    assert after["ssim"] > before["ssim"]
