import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray._private import services
from ray._private.node import Node
from ray._private.parameter import RayParams

from pipeline.errors import ConfigError, StageStalled
from pipeline.job import driver
from pipeline.job.driver import run
from pipeline.storage.store import Store
from tests.bare_ray import bare_nodes
from tests.jobs import saboteurs
from tests.jobs.conftest import ROOT, Silence, committed_rows, job

Undisturbed = tuple[list[str], pa.Table]

CODE = """
from pipeline.cluster import connect
from tests.bare_ray import bare_nodes
with bare_nodes(), connect() as found: print(found)
"""


def test_a_job_does_not_join_the_ray_of_another_program(cluster: str, tmp_path: Path) -> None:
    """That of this test session is one: no variable names it.

    A Ray that a job starts leaves no token in the home folder, where a later `ray start` finds it.
    """
    here = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    fresh = {k: v for k, v in here.items() if not k.startswith("RAY_AUTH_")}
    processes = {
        said: subprocess.Popen(
            [sys.executable, "-c", CODE],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        for said, environment in (
            ("started on this machine · nodes: 1 · CPUs: ", {**fresh, "HOME": str(tmp_path)}),
            (f"joined at {cluster} · nodes: 1 · CPUs: 8 ·", {**here, "RAY_ADDRESS": cluster}),
        )
    }
    for said, process in processes.items():
        printed, errors = process.communicate()
        assert printed.startswith(said), errors
        assert "Set ray log level" not in errors
    assert not list(tmp_path.iterdir())


def test_a_job_whose_only_device_is_lost_ends(
    undisturbed: Undisturbed, marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars, _ = undisturbed
    (marks / "never").touch()
    monkeypatch.setattr("pipeline.job.graph.TokenizeWorker", saboteurs.LosesItsDevice)
    with pytest.raises(StageStalled, match=r"and max_wait_s = 3: node .* has fallen off"):
        run(job(tars[:1], tmp_path / "out", max_wait_s=3.0), Silence())


@pytest.fixture
def blind_node(cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start of the id of a second node, which has an empty folder in the place of `out`.

    It has room for a commit beside both actors.
    """
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    (tmp_path / "out").mkdir()
    mount = f'mount -t tmpfs tmpfs "{tmp_path}/out" && exec "$@"'
    start = services.start_ray_process

    def start_blind(command: list[str], *values: Any, **named: Any) -> Any:
        return start(["unshare", "-m", "bash", "-c", mount, "bash", *command], *values, **named)

    monkeypatch.setattr(services, "start_ray_process", start_blind)
    with bare_nodes():
        node = Node(
            RayParams(gcs_address=cluster, num_cpus=3, object_store_memory=100_000_000),
            shutdown_at_exit=False,
            spawn_reaper=False,
        )
    try:
        deadline = time.monotonic() + 60
        while not any(each["Alive"] for each in ray.nodes() if each["NodeID"] == node.node_id):
            assert time.monotonic() < deadline, "the node does not start"
            time.sleep(0.2)
        yield node.node_id[:8]
    finally:
        node.kill_all_processes(check_alive=False, allow_graceful=True)


def test_blind_nodes_commit_nothing_and_a_device_that_comes_back_is_used_again(
    blind_node: str,
    undisturbed: Undisturbed,
    marks: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job refuses to begin if a node does not see the output; one that joins later is left out.

    Neither fault costs a unit an attempt.
    """
    tars, rows = undisturbed
    config = job(tars, tmp_path / "out")
    with pytest.raises(ConfigError, match=rf"{blind_node}\) does not see reports/.*config.yaml"):
        run(config, Silence())
    assert not list(Store(str(tmp_path / "out")).files("log"))

    monkeypatch.setattr(driver, "require_shared", lambda *_: None)
    monkeypatch.setattr("pipeline.job.graph.TokenizeWorker", saboteurs.LosesItsDevice)
    progress = Silence()
    summary = run(config, progress)
    assert (summary.exit_code, summary.retried) == (0, 0)
    assert committed_rows(tmp_path / "out").equals(rows)
    assert any(" · nodes: 2 · CPUs: 11 · " in line for line in progress.said)
    [blind] = [line for line in summary.troubles if "does not see the output" in line]
    assert f"{blind_node}) does not see the output" in blind
    assert any(blind in line for line in progress.said)

    assert len(list(marks.glob("start-*"))) == 3
    starts = [line for line in summary.troubles if line != blind]  # one for each node
    error = "RuntimeError: CUDA error: GPU has fallen off"
    assert sum(2 if f"(2 times): {error}" in line else 1 for line in starts) == 2
    for trouble in starts:
        assert "tokenize does not start" in trouble
        assert error in trouble
        assert f"trouble    {trouble}" in summary.lines()
    said = [line for line in progress.said if f"tokenize does not start: {error}" in line]
    assert len(said) == len(starts)
