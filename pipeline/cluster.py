"""A connection to Ray, to an existing cluster or to a new local one."""

import contextlib
import logging
import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray

from pipeline.errors import ConfigError, RayNotStarted, one_line

RAY_ADDRESS: Final = "RAY_ADDRESS"
"""Environment variable with the cluster to join. `ray job submit` sets it."""

LOCAL: Final = "local"
"""Address that stands for a new Ray on this machine."""

_HOST_PORT: Final = re.compile(r"(?:ray://)?\[?([^/\]]+)\]?:(\d+)")
_IDLE_MS: Final = 60_000
"""Milliseconds for which an idle process of a local Ray waits for work. With Ray's own default of
one second, almost every commit of a small job starts a process, which costs a second of CPU."""

_ANSWER_S: Final = 10.0
"""Seconds in which the port of a cluster must answer. Ray itself waits for minutes."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a job may use."""

    cpus: float
    gpus: float
    is_own: bool
    """Whether the cluster was started for this job, on this machine; it does not grow then."""
    address: str = ""
    """Host and port of Ray's control service."""
    nodes: int = 1
    """Number of nodes that are alive."""

    def __str__(self) -> str:
        """Return which Ray this is and what it has, for the user."""
        which = "started on this machine" if self.is_own else f"joined at {self.address}"
        return f"{which} · nodes: {self.nodes} · CPUs: {self.cpus:g} · GPUs: {self.gpus:g}"


@contextmanager
def connect() -> Iterator[Cluster]:
    """Connect to the cluster that `RAY_ADDRESS` names, or start a local one.

    `RAY_ADDRESS` has the values of `ray.init(address=…)`: `host:port`; `auto` for a Ray that runs
    on this machine; `local`, which is the default here. An existing connection is used, and stays
    open.

    Raises:
        ConfigError: the named cluster does not answer, refuses the connection, or runs another
            version of Ray or Python.
        RayNotStarted: Ray did not start on this machine.
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
    address = os.environ.get(RAY_ADDRESS) or LOCAL
    if address == LOCAL:
        # Ray would write a token into the home folder. Its presence turns token authentication on
        # for every later `ray start`, but not for the `ray job submit` that follows.
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(_IDLE_MS))
        # Ray Data sends figures of its use from a process of its own: three seconds of CPU.
        os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
        _start(quiet)
    else:
        _join(address, quiet)
    try:
        yield _cluster(is_own=address == LOCAL)
    finally:
        ray.shutdown()


def _start(quiet: dict[str, Any]) -> None:
    try:
        with _core_is_silent():
            ray.init(address=LOCAL, include_dashboard=False, **quiet)
    except Exception as error:  # Ray has no base class for what can go wrong here
        with contextlib.suppress(Exception):
            ray.shutdown()
        raise RayNotStarted(
            f"Ray did not start on this machine: {one_line(error)}; Ray gives up after 30 s, which"
            " a machine that is busy or short of memory can exceed"
        ) from error


def _join(address: str, quiet: dict[str, Any]) -> None:
    try:
        if place := _HOST_PORT.fullmatch(address):
            socket.create_connection((place[1], int(place[2])), timeout=_ANSWER_S).close()
        with _core_is_silent():
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray has no base class for what can go wrong here
        with contextlib.suppress(Exception):
            ray.shutdown()
        raise ConfigError(
            f"Ray at {address} (--ray or {RAY_ADDRESS}) cannot be reached: {one_line(error)};"
            " --ray local starts one on this machine"
        ) from error


@contextmanager
def _core_is_silent() -> Iterator[None]:
    """Discard what Ray's core writes to stderr, such as its log level. Errors are raised."""
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _cluster(*, is_own: bool) -> Cluster:
    resources = ray.cluster_resources()
    return Cluster(
        cpus=resources.get("CPU", 1.0),
        gpus=resources.get("GPU", 0.0),
        is_own=is_own,
        address=ray.get_runtime_context().gcs_address,
        nodes=sum(bool(node["Alive"]) for node in ray.nodes()),
    )
