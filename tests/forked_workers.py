"""Processes of Ray that are forks of a process which has imported what they need.

A worker imports for one to four seconds of CPU before it does anything, and the tests start
hundreds. The forks are real processes: Ray's node starts, watches and kills them, and tests kill
them.

A root server imports all but Ray. For each node and each job it forks a server that imports Ray,
which reads the node's process id and the job's id from the environment when it is imported. One
more is for other programs: agents of nodes, and what tests start by `forked`.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

SCRIPT = Path(__file__).with_name("forked_worker.py")
ROOT = Path(__file__).parents[1]

VARIABLES = ("FORKED_WORKERS", "RAY_enable_pipe_based_agent_to_parent_health_check")
"""The folder of the servers, for what Ray starts; and that agents see by a pipe that their node
ends, and not by whose child they are."""

OTHERS = "others"
"""Name of the server of programs that are not workers, as the script knows it."""

INSTALLED = ("torch", "pandas", "s3fs", "omegaconf", "pydantic", "pyarrow.dataset", "rich.progress")
OURS = ("vidtok", "pipeline.stages.tokenize")


@contextmanager
def forked_workers(*, ours: bool = True) -> Iterator[None]:
    """Fork the workers of the nodes that this process starts, and of those that join them.

    Args:
        ours: whether the forks have imported the package. Else they import it from where the
            runtime environment of their job says.
    """
    if sys.platform != "linux":  # the servers watch processes by pidfd
        yield
        return
    from ray._private import services
    from ray._private.parameter import RayParams

    initial = RayParams.__init__

    def with_script(self: RayParams, *values: Any, **named: Any) -> None:
        initial(self, *values, **named)
        self.setup_worker_path = str(SCRIPT)

    with (
        tempfile.TemporaryDirectory(prefix="forks-", dir="/tmp") as folder,  # 107 bytes at most
        mock.patch.dict(os.environ, dict(zip(VARIABLES, (folder, "1"), strict=True))),
        mock.patch.object(RayParams, "__init__", with_script),
        mock.patch.object(services, _COMMAND, _command),
    ):
        modules = ",".join((*INSTALLED, *OURS) if ours else INSTALLED)
        root = subprocess.Popen(
            [sys.executable, "-m", __name__, f"{folder}/root", modules],
            cwd=ROOT,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # what is forked has no threads
        )
        try:
            while not Path(folder, "root").exists():
                assert root.poll() is None, "the server of workers does not start"
                time.sleep(0.02)
            yield
        finally:
            root.kill()
            root.wait()


_COMMAND = "_build_python_executable_command_memory_profileable"


def _command(component: str, *_: Any, **__: Any) -> list[str]:
    """Return how a node starts its agents, and the dashboard, which is left alone."""
    return [sys.executable] if component == "dashboard" else [sys.executable, str(SCRIPT)]


def hook(parameters: Any, *_: Any) -> None:
    """Do the same in `ray start`, if `RAY_START_HOOK` names this; start no server of clients."""
    parameters.ray_client_server_port = None
    if "FORKED_WORKERS" in os.environ:
        parameters.setup_worker_path = str(SCRIPT)
        setattr(importlib.import_module("ray._private.services"), _COMMAND, _command)


def forked(program: str, *arguments: str | Path) -> list[str]:
    """Return the command that runs a script of the repository in a fork.

    The process that it starts lives as long as the fork; who kills it kills the fork, too. Its
    PYTHONPATH must name the repository.
    """
    script = [str(SCRIPT)] if "FORKED_WORKERS" in os.environ else []
    return [sys.executable, *script, str(ROOT / program), *map(str, arguments)]


def import_in_workers(*modules: str) -> None:
    """Let all servers of workers import modules before their next fork, if workers are forked."""
    if folder := os.environ.get("FORKED_WORKERS"):
        Path(folder, "imports").write_text(" ".join(modules))


def _next_request(address: str, owner: int, imports: Path | None = None) -> dict[str, Any]:
    """Fork for each request, and return it in the fork; the server ends with its owner.

    Args:
        address: path of the socket that requests come to.
        owner: id of a process.
        imports: path of a file that may come to be, with modules to import before a fork.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}-")
    listener.listen(64)
    Path(f"{address}-").rename(address)  # whoever sees it can connect
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    selector.register(os.pidfd_open(owner), selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.fileobj is listener:
                client, _ = listener.accept()
                text, descriptors, _, _ = socket.recv_fds(client, 1 << 20, 3)
                while not text.endswith(b"\n"):
                    text += client.recv(1 << 20)
                asked = dict(json.loads(text))
                if imports is not None and imports.exists():
                    _import(*imports.read_text().split())
                pid = os.fork()
                if not pid:
                    for number, descriptor in enumerate(descriptors):
                        os.dup2(descriptor, number)
                    selector.close()
                    listener.close()
                    client.close()
                    os.environ.clear()
                    os.environ.update(asked["environment"])
                    os.chdir(asked["folder"])
                    return asked
                for descriptor in descriptors:
                    os.close(descriptor)
                if "address" in asked:  # a server, which lives on
                    client.close()
                    continue
                ended = os.pidfd_open(pid)
                selector.register(client, selectors.EVENT_READ, (pid, client, ended))
                selector.register(ended, selectors.EVENT_READ, (pid, client, ended))
            elif key.data is None:
                os._exit(0)
            elif key.fd in selector.get_map():
                pid, client, ended = key.data
                if key.fd != ended:  # Ray has given the worker up
                    os.kill(pid, signal.SIGKILL)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(OSError):
                    client.sendall(b"%d\n" % code)
                selector.unregister(client)
                selector.unregister(ended)
                client.close()
                os.close(ended)


def _import(*modules: str) -> None:
    for module in modules:
        importlib.import_module(module)
    gc.freeze()


def _enter_mounts(process: int) -> None:
    """See the file systems that a process sees: a node may have a view of its own."""
    theirs = f"/proc/{process}/ns/mnt"
    if os.readlink(theirs) != os.readlink("/proc/self/ns/mnt"):
        descriptor = os.open(theirs, os.O_RDONLY)
        assert ctypes.CDLL(None).setns(descriptor, 0) == 0, "a worker is not where its node is"
        os.close(descriptor)


def _serve(address: str, modules: str) -> None:
    ours = "pipeline." in modules
    _import(*modules.split(","))
    assert "ray" not in sys.modules
    asked = _next_request(address, owner=os.getppid())

    own = Path(asked["address"])
    is_worker = own.name != OTHERS
    if is_worker:
        _import("ray.data", "ray.train.torch", "ray._private.workers")
        if ours:
            _import("pipeline.job.graph", "pipeline.decode.child.main")
        owner = int(os.environ["RAY_RAYLET_PID"])
        _enter_mounts(owner)
    else:
        _import("ray.dashboard.agent", "ray._private.runtime_env.agent.main")
        dashboard = importlib.import_module("ray.dashboard.utils")
        dashboard.get_all_modules(dashboard.DashboardAgentModule)
        owner = os.getppid()
    imports = own.with_name("imports") if is_worker else None
    asked = _next_request(asked["address"], owner, imports)
    if ours and is_worker:
        importlib.import_module("tests.pipeline.forked_decoders").fork_one_decoder()
    importlib.import_module("ray._raylet").Config.initialize("")  # variables are read again
    sys.argv = asked["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    folders = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [folder for folder in folders if folder]
    if not ours:
        sys.modules.pop("tests")
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _serve(*sys.argv[1:])
