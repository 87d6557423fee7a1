"""How the suite runs: threads, hypothesis, and which process of `-n auto` takes which file."""

import gc
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from pipeline.storage.store import Store
    from tests.pipeline.s3 import S3Server

# What is collected stays: to look for garbage meanwhile takes an eighth of the time.
gc.disable()

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

    from tests.bare_ray import bare_nodes
    from tests.forked_workers import forked_workers

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    with forked_workers():
        with bare_nodes():
            context = ray.init(
                address="local",
                num_cpus=8,
                object_store_memory=400_000_000,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
        yield context.address_info["address"]
        ray.shutdown()


@pytest.fixture(scope="session")
def s3() -> "Iterator[S3Server]":
    """An S3 server for the tests of a process; take a fresh `s3.bucket()` per test.

    There is one: file systems that take the server from the environment are kept by fsspec.
    """
    from tests.pipeline.s3 import CREDENTIALS, S3Server

    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        server = S3Server()
        yield server
        server.close()


@pytest.fixture
def s3_store(s3: "S3Server") -> "Store":
    from pipeline.storage.store import Store

    return Store(f"{s3.bucket()}/corpus", s3.storage_options)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# Processes share the cores. Threads of torch spin, and more threads than cores slow each other down
# tenfold. torch reads the variable when it is imported, so it is set here.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // int(workers))))
    # Ray starts its workers with niceness 15: beside other processes of tests they barely run.
    os.environ.setdefault("RAY_worker_niceness", "0")


# Ray starts an idle worker for each CPU, and ends one that was idle for a second: almost every task
# of a test then starts a process, which takes a second of CPU. Its statistics take another one.
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

# Without it Ray writes a token into the home folder, which a later `ray start` finds.
os.environ.setdefault("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)


_LIBRARIES = re.compile(
    r"small_vaes|small_codecs|text_models|tests\.lazy import .*(diffusers|transformers)"
    r"|torch\.compile"
)
_FORK_SERVER = re.compile(
    r"from tests\.ranks import|from tests\.pipeline\.training\.processes import"
)


@cache
def _text(path: Path) -> str:
    return path.read_text()


def _starts_ray(path: Path) -> bool:
    return "tests/jobs/" in path.as_posix() or "pytest.mark.ray" in _text(path)


def _chain(path: Path) -> str | None:
    """Name the chain of files that one process takes; None for a file on its own.

    The tests of a process share its Ray cluster, its fork server of ranks, and libraries that take
    seconds to import.
    """
    if _starts_ray(path):
        alone = path.name == "test_submit.py" or "tests/jobs/" not in path.as_posix()
        return "clusters" if alone else "jobs"
    if _FORK_SERVER.search(_text(path)):
        return "ranks"
    return "libraries" if _LIBRARIES.search(_text(path)) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the chains first, then files with slow tests: the longest work starts first."""
    items.sort(
        key=lambda item: (
            not _starts_ray(item.path),
            _chain(item.path) is None,
            "pytest.mark.slow" not in _text(item.path),
        )
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Collect garbage again, but pass over what is there: to walk it takes a third of a second."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop Ray after the last test that uses it: an idle cluster takes a tenth of a core."""
    if _starts_ray(item.path) and nextitem is not None and not _starts_ray(nextitem.path):
        import ray

        ray.shutdown()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Take one process more than cores, at most 8: the two that start Ray wait now and then."""
    return min(8, max(3, _cores() + 1))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file and of a chain in one process.

    The scheduler only knows paths, so the text of a file decides: groups made by marks
    (`--dist loadgroup`) do nothing under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Chains(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return _chain(config.rootpath / path) or path

    config.option.loadscopereorder = False  # the order of collection, see above
    return Chains(config, log)
