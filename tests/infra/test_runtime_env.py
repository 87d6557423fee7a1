"""The runtime environment of a submitted job: what it installs, and what it uploads."""

import subprocess
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ENVIRONMENT = yaml.safe_load((ROOT / "infra/runtime_env.yaml").read_text())


def test_it_installs_the_dependencies_without_ray() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["s3"], *extras["hub"]]
    assert sorted(ENVIRONMENT["pip"]) == sorted(n for n in needed if not n.startswith("ray["))


def test_it_uploads_what_a_job_imports_and_little_more() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = listed.stdout.splitlines()
    excluded = {pattern.removeprefix("/") for pattern in ENVIRONMENT["excludes"]}
    top = {name.partition("/")[0] for name in files}
    assert excluded - top <= {".git", ".venv", "out"}
    kept = [name for name in files if name.partition("/")[0] not in excluded]
    assert {"pipeline", "vidtok", "jobs"} <= {name.partition("/")[0] for name in kept}
    assert (
        sum((ROOT / name).stat().st_size for name in kept) < 20_000_000
    )  # 18 MB of it are models and videos
