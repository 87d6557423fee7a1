import os
import subprocess
import sys
from pathlib import Path

from tests.jobs.conftest import ROOT

CODE = "from pipeline.cluster import connect\nwith connect() as found: print(found)"


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
