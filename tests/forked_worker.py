"""What Ray runs to start a worker in the tests: it asks `tests.forked_workers` for a fork.

It lives as long as the fork, and ends as the fork does. It imports little, because each start pays
for it.
"""

import fcntl
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Start a worker with the arguments of this process."""
    folder = Path(os.environ["FORKED_WORKERS"])
    address = folder / f"{os.environ['RAY_RAYLET_PID']}.{os.environ.get('RAY_JOB_ID', '')}"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            _ask(folder / "root", address=str(address))
            while not address.exists():
                time.sleep(0.01)
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    worker = Path(spec.origin).with_name("_private") / "workers/default_worker.py"
    server = _ask(address, arguments=[str(worker), *sys.argv[1:]])
    code = int(server.makefile().readline() or -signal.SIGKILL)
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _ask(server_at: Path, **asked: Any) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(server_at))
    asked |= {"environment": dict(os.environ), "folder": os.getcwd()}
    socket.send_fds(server, [json.dumps(asked).encode() + b"\n"], [0, 1, 2])
    return server


if __name__ == "__main__":
    main()
