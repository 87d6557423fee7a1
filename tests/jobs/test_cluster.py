import os
import subprocess
import sys

from tests.jobs.conftest import ROOT


def test_a_job_does_not_join_the_ray_of_another_program(cluster: str) -> None:
    """That of this test session is one: no `ray start` wrote it down, and no variable names it."""
    code = "from pipeline.cluster import connect\nwith connect() as found: print(found.is_own)"
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    for address, is_own in (({}, "True"), ({"RAY_ADDRESS": cluster}, "False")):
        result = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment | address,
        )
        assert result.stdout.split() == [is_own], result.stderr
