"""What holds where several processes run the tests (`pytest -n auto --dist loadgroup`)."""

import os

import pytest

# Processes share the cores: torch's threads spin, and more of them than cores slow each other down
# tenfold. Said before anything imports torch.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    threads = max(1, (os.cpu_count() or 1) // int(workers))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Ray's workers are nice (15): beside other processes of tests they would hardly get a turn.
    os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, and all that start Ray in one and the same."""
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
