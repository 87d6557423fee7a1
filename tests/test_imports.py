"""What processes import, and what examples may; `lint-imports` checks all other imports."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_verb_that_reads_datasets_imports_the_pipeline_when_it_runs() -> None:
    assert imported("import vidtok.__main__", "pipeline", "pyarrow") == "\n"


def test_ray_data_is_known_to_the_graph_alone() -> None:
    """The contract of `lint-imports` does not tell parts of other packages apart."""
    files = (ROOT / "pipeline").rglob("*.py")
    found = [
        path
        for path in files
        if re.search(r"^\s*(from|import) ray\.data\b", path.read_text(), re.M)
    ]
    assert found == [ROOT / "pipeline/job/graph.py"]


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples").rglob("*.py")), ids=lambda path: path.name
)
def test_examples_use_what_packages_offer(example: Path) -> None:
    for node in ast.walk(ast.parse(example.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.module:
            continue
        if not node.module.startswith(("pipeline", "vidtok")) or node.module == "pipeline.errors":
            continue
        offered = importlib.import_module(node.module)
        assert {alias.name for alias in node.names} <= {*getattr(offered, "__all__", ())}


def imported(code: str, *watched: str) -> str:
    """Run code in a process of its own; return which of the watched modules it imported."""
    code = f"{code}\nimport sys; print(*[name for name in {watched} if name in sys.modules])"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout


def test_decode_actors_and_commits_start_without_torch() -> None:
    """Seconds and hundreds of MB for each process, and most of a cluster's processes are these."""
    heavy = "torch", "av", "PIL", "vidtok"
    assert imported("import pipeline.job.graph", *heavy) == "\n"


def test_a_fork_server_imports_what_decoding_needs_alone() -> None:
    """A decode actor waits for it, and each of its decoder processes shares its memory."""
    others = "pydantic", "omegaconf", "pyarrow", "fsspec", "ray"
    assert imported("import pipeline.decode.child.main", "torch", *others) == "torch\n"


STEPS = {
    "settings": "from pipeline.job.config_checks import load_config\n"
    "c = load_config('pipeline/demo/job.yaml')",
    "models": "from pipeline.job.driver import *\nfrom pipeline.job.setup import *\n"
    "open_tokenizers(c)",
    "passes": "from pipeline.job import bundles, graph, precision, resources\n"
    "precision.require_fast_precision(c, 'cpu')",
    "weights": "import vidtok\nvidtok.load",
}
"""What a driver does, one after another."""


@pytest.fixture(scope="module")
def driver() -> dict[str, set[str]]:
    """Which heavy modules a driver has imported after each step."""
    heavy = "torch", "ray", "ray.data", "av"
    look = f"import sys; print(*[name for name in {heavy} if name in sys.modules])"
    lines = imported("".join(f"{step}\n{look}\n" for step in STEPS.values())).splitlines()
    return {step: set(line.split()) for step, line in zip(STEPS, lines, strict=False)}


def test_settings_are_checked_without_torch_and_ray(driver: dict[str, set[str]]) -> None:
    assert driver["settings"] == set()
    assert "torch" in driver["weights"]


def test_a_driver_describes_the_weights_of_this_package_without_torch(
    driver: dict[str, set[str]],
) -> None:
    assert not driver["models"] & {"torch", "ray.data"}
    assert not driver["passes"] & {"torch"}
    assert "ray.data" in driver["passes"]
