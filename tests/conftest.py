"""What holds where several processes run the tests (`pytest -n auto`)."""

import os
from typing import Any

import pytest

# Processes share the cores: torch's threads spin, and more of them than cores slow each other down
# tenfold. Said before anything imports torch.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    threads = max(1, (os.cpu_count() or 1) // int(workers))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Ray's workers are nice (15): beside other processes of tests they would hardly get a turn.
    os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process, and all files that start Ray in one and the same.

    By the files' text: groups made by marks (`--dist loadgroup`) do nothing under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneProcessForRay(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            text = (config.rootpath / path).read_text()
            return "ray" if path.startswith("tests/jobs/") or "pytest.mark.ray" in text else path

    return OneProcessForRay(config, log)
