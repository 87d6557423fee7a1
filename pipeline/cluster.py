"""A connection to Ray, to an existing cluster or to a new local one."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ray


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a job may use."""

    cpus: float
    gpus: float
    is_own: bool
    """Whether the cluster was started for this job, on this machine; it does not grow then."""


@contextmanager
def connect() -> Iterator[Cluster]:
    """Connect to the cluster that `RAY_ADDRESS` or `ray start` names, or start a local one.

    An existing connection is used, and stays open.
    """
    if ray.is_initialized():
        yield _cluster(is_own=False)
        return
    # Ray's core warns every driver of Ray Data that restarted actors need the driver's objects.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray warns that its default will change. Actors here that ask for no GPU use none either way.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    # Workers find the package also in a checkout that is not installed, from any folder.
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        # Ray refuses `resources` with a ValueError if a cluster is named. Trying "auto" first would
        # find the Ray of any other program on this machine.
        ray.init(resources={"own": 1.0}, include_dashboard=False, **quiet)
        is_own = True
    except ValueError:
        try:
            ray.init(address="auto", **quiet)
            is_own = False
        except ConnectionError:  # the cluster that `ray start` wrote down is gone
            ray.init(address="local", include_dashboard=False, **quiet)
            is_own = True
    try:
        yield _cluster(is_own=is_own)
    finally:
        ray.shutdown()


def _cluster(*, is_own: bool) -> Cluster:
    resources = ray.cluster_resources()
    return Cluster(resources.get("CPU", 1.0), resources.get("GPU", 0.0), is_own)
