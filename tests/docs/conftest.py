import os
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.config.job import JobConfig
from pipeline.job.config_checks import load_config
from tests.docs.blocks import ROOT
from tests.pipeline.tokenized import tokenized

VIDEOS = sorted((ROOT / "tests/data/videos").glob("*.mp4"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's dataset at a smaller size, made without Ray."""
    output = tmp_path_factory.mktemp("demo") / "demo"
    values = load_config(str(ROOT / "pipeline/demo/job.yaml")).model_dump(mode="json")
    values["source"]["uri"] = [str(path) for path in VIDEOS]
    values["clip"] |= {"height": 32, "width": 32}
    values["output"]["uri"] = str(output)
    tokenized(JobConfig.model_validate(values))
    return output


@pytest.fixture
def folder(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader: `videos` and `out/demo`."""
    shutil.copytree(demo, tmp_path / "out/demo")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "videos").mkdir()
    for path in VIDEOS:
        shutil.copy(path, tmp_path / "videos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path
