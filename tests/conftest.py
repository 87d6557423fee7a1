"""How the suite runs: threads, hypothesis, and which process of `-n auto` takes which file."""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# On a busy machine an example, and the drawing of one, takes many times longer than on an idle one.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_disks() -> Iterator[None]:
    """Skip `fsync`, which only matters when a machine loses power and takes most of a commit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """Address of a small Ray cluster with room for two drivers; it shares this machine's cores.

    To start one takes seconds, so the tests of a process share theirs.
    """
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    context = ray.init(
        address="local",
        num_cpus=8,
        object_store_memory=400_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"metrics_report_interval_ms": 2500},  # the default is ten seconds
    )
    yield context.address_info["address"]
    ray.shutdown()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Processes share the cores. Threads of torch spin, and more threads than cores slow each other down
# tenfold. torch reads the variable when it is imported, so it is set here.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // int(workers))))
    # Ray starts its workers with niceness 15: beside other processes of tests they barely run.
    os.environ.setdefault("RAY_worker_niceness", "0")


# Without it Ray writes a token into the home folder, which a later `ray start` finds.
os.environ.setdefault("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)


@cache
def _text(path: Path) -> str:
    return path.read_text()


def _ray_chain(path: Path) -> str | None:
    """Name the chain of tests that starts Ray and takes this file; None for other files.

    The tests of a chain share the cluster of their process.
    """
    if "tests/jobs/" in path.as_posix() and path.name != "test_submit.py":
        return "jobs"
    if path.name == "test_submit.py" or "pytest.mark.ray" in _text(path):
        return "clusters"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that start Ray first, then files with slow tests: the longest work starts first."""
    items.sort(
        key=lambda item: (
            _ray_chain(item.path) is None,
            "pytest.mark.slow" not in _text(item.path),
        )
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Take one process more than cores, at most 8: the two that start Ray wait now and then."""
    return min(8, max(3, _cores() + 1))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process, and the files that start Ray in two.

    The scheduler only knows paths, so the text of a file decides: groups made by marks
    (`--dist loadgroup`) do nothing under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneProcessForRay(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return _ray_chain(config.rootpath / path) or path

    config.option.loadscopereorder = False  # the order of collection, see above
    return OneProcessForRay(config, log)
