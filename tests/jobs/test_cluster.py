import os
import subprocess
import sys

from tests.jobs.conftest import ROOT


def test_a_job_does_not_join_the_ray_of_another_program(cluster: str) -> None:
    """That of this test session is one: no `ray start` wrote it down, and no variable names it."""
    code = "from pipeline.cluster import connect\nwith connect() as found: print(found.is_own)"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    processes = {
        is_own: subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment | address,
        )
        for address, is_own in (({}, "True"), ({"RAY_ADDRESS": cluster}, "False"))
    }
    for is_own, process in processes.items():
        printed, errors = process.communicate()
        assert printed.split() == [is_own], errors
