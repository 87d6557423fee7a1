"""Imports point one way: jobs → pipeline → vidtok, and each heavy library has one door."""

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@cache
def imports(path: Path) -> set[str]:
    """Return the modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def importers(package: str, library: str) -> set[str]:
    """Return the modules of a package that import a library or anything below it."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob("*.py")
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }


@pytest.mark.parametrize("library", ["pipeline", "ray", "av", "fsspec", "pyarrow"])
def test_the_tokenizer_knows_nothing_of_the_pipeline(library: str) -> None:
    one_verb_reads_datasets = {"vidtok/__main__.py"} if library == "pipeline" else set()
    assert importers("vidtok", library) == one_verb_reads_datasets


def test_the_verb_that_reads_datasets_imports_the_pipeline_when_it_runs() -> None:
    assert imported("import vidtok.__main__", "pipeline", "pyarrow") == "\n"


def test_ray_data_is_known_to_the_graph_alone() -> None:
    assert importers("pipeline", "ray.data") == {"pipeline/job/graph.py"}
    assert importers("pipeline", "ray") == {
        "pipeline/job/graph.py",
        "pipeline/job/collector.py",
        "pipeline/job/supervision/desk.py",
        "pipeline/job/nodes.py",
        "pipeline/job/supervision/supervised.py",
        "pipeline/cluster.py",
        "pipeline/job/metrics/ray_metrics.py",
        "pipeline/evaluation/workers.py",
        "pipeline/training/ray_ranks.py",
    }


def test_video_is_decoded_in_one_folder() -> None:
    # The codecs that tokenizers are compared with encode and decode on their own account.
    # One module writes a video for people.
    ours = {"pipeline/evaluation/baseline_codecs.py", "pipeline/operations/show.py"}
    others = importers("pipeline", "av") - ours
    assert all(name.startswith("pipeline/decode/") for name in others)


def test_stores_are_known_to_one_module() -> None:
    assert importers("pipeline", "fsspec") == {"pipeline/storage/files.py"}
    assert importers("pipeline", "s3fs") == set()


def test_table_formats_have_one_module_each() -> None:
    assert importers("pipeline", "deltalake") == {"pipeline/operations/publish/delta.py"}
    assert importers("pipeline", "pyiceberg") == {"pipeline/operations/publish/iceberg.py"}


def test_nothing_imports_the_jobs() -> None:
    assert importers("pipeline", "jobs") | importers("vidtok", "jobs") == set()


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
