"""The wheel holds what it needs: the demo runs from it alone, without the repository."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MAX_BYTES = 20_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what git tracks."""
    copy, output = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    names = subprocess.run(
        ["git", "ls-files", "-z", "pyproject.toml", "README.md", "LICENSE", "vidtok", "pipeline"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, names.stdout.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(output), str(copy)], check=True)
    [made] = output.glob("*.whl")
    return made


def test_it_holds_models_and_videos_and_is_small(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for folder, ending, count in (
        ("vidtok/weights/", ".safetensors", 5),
        ("pipeline/demo/videos/", ".mp4", 4),
    ):
        assert sum(name.startswith(folder) and name.endswith(ending) for name in names) == count
    assert {"vidtok/py.typed", "pipeline/py.typed", "pipeline/demo/job.yaml"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "tools", "benchmarks"))]
    assert wheel.stat().st_size <= MAX_BYTES


@pytest.mark.ray
def test_the_demo_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    [site] = home.glob("lib/python*/site-packages")
    # The dependencies of this environment; a path in a .pth does not bring its own .pth files, so
    # the editable install of the repository stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(home / "bin/python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], check=True)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(home / "bin/vidtok-pipeline"), "demo", "clip.height=32", "clip.width=32"],
        cwd=tmp_path,
        env={**kept, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 planned · 4 done" in done.stdout
    assert "balanced" in done.stdout
    assert (tmp_path / "out/demo/decoded.png").read_bytes().startswith(b"\x89PNG")
    where = [
        str(home / "bin/python"),
        "-c",
        "import pipeline; print(pipeline.__file__, pipeline.__version__)",
    ]
    found = subprocess.run(
        where, cwd=tmp_path, env=kept, capture_output=True, text=True, check=True
    )
    assert found.stdout.startswith(str(home))
    assert found.stdout.split()[1] == wheel.name.split("-")[1]
