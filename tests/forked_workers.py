"""Workers of Ray that are forks of a process which has imported what they need.

A worker imports for one to four seconds of CPU before it does anything, and the tests start
hundreds. The forks are real processes: Ray's node starts, watches and kills them, and tests kill
them.

A root server imports all but Ray. For each node and each job it forks a server that imports Ray,
which reads the node's process id and the job's id from the environment when it is imported.
"""

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

from tests.pipeline.forked_decoders import fork_one_decoder

SCRIPT = Path(__file__).with_name("forked_worker.py")


@contextmanager
def forked_workers() -> Iterator[None]:
    """Fork the workers of the nodes that this process starts, and of those that join them."""
    if sys.platform != "linux":  # the servers watch processes by pidfd
        yield
        return
    from ray._private.parameter import RayParams

    initial = RayParams.__init__

    def with_script(self: RayParams, *values: Any, **named: Any) -> None:
        initial(self, *values, **named)
        self.worker_path = str(SCRIPT)

    with (
        tempfile.TemporaryDirectory(prefix="forks-", dir="/tmp") as folder,  # 107 bytes at most
        mock.patch.dict(os.environ, FORKED_WORKERS=folder),
        mock.patch.object(RayParams, "__init__", with_script),
    ):
        root = subprocess.Popen(
            [sys.executable, "-m", __name__, f"{folder}/root"],
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


def _next_request(address: str, owner: int) -> dict[str, Any]:
    """Fork for each request, and return it in the fork; the server ends with its owner."""
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


def _serve(address: str) -> None:
    _import("torch", "pandas", "s3fs", "vidtok", "pipeline.stages.tokenize")
    assert "ray" not in sys.modules
    asked = _next_request(address, owner=os.getppid())

    _import(
        "ray.data",
        "ray.train.torch",
        "ray._private.workers",
        "pipeline.job.graph",
        "pipeline.decode.child_main",
    )
    asked = _next_request(asked["address"], owner=int(os.environ["RAY_RAYLET_PID"]))
    fork_one_decoder()
    importlib.import_module("ray._raylet").Config.initialize("")  # variables are read again
    sys.argv = asked["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])
