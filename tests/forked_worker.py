"""What Ray runs to start a worker or an agent in the tests: it asks `tests.forked_workers` for one.

It lives as long as the fork, and ends as the fork does. It imports little, because each start pays
for it.
"""

import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

CONTEXT = "--serialized-runtime-env-context="


def main() -> None:
    """Start the program that the arguments of this process begin with."""
    program = Path(sys.argv[1])
    name = "others"
    if program.name == "default_worker.py":
        _set_up(program.with_name("setup_worker.py"))
        name = f"{os.environ['RAY_RAYLET_PID']}.{os.environ.get('RAY_JOB_ID', '')}"
    arguments = [value for value in sys.argv[1:] if not value.startswith((CONTEXT, "--language="))]
    folder = Path(os.environ["FORKED_WORKERS"])
    address = folder / name
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not address.exists():
            _ask(folder / "root", address=str(address))
            while not address.exists():
                time.sleep(0.01)
    code = int(_ask(address, arguments=arguments).makefile().readline() or -signal.SIGKILL)
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


def _set_up(script: Path) -> None:
    """Set variables and folder of the runtime environment; leave to Ray's script what is more."""
    for value in sys.argv:
        if value.startswith(CONTEXT):
            context = json.loads(value.removeprefix(CONTEXT))
            enter = context.pop("command_prefix") or ["cd", os.getcwd(), "&&"]
            variables = context.pop("env_vars")
            is_here = context.pop("py_executable") == sys.executable
            if not is_here or any(context.values()) or (enter[0], *enter[2:]) != ("cd", "&&"):
                os.execv(sys.executable, [sys.executable, str(script), *sys.argv[1:]])
            os.chdir(enter[1])
            os.environ.update(variables)


def _ask(server_at: Path, **asked: Any) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.connect(str(server_at))
    asked |= {"environment": dict(os.environ), "folder": os.getcwd()}
    socket.send_fds(server, [json.dumps(asked).encode() + b"\n"], [0, 1, 2])
    return server


if __name__ == "__main__":
    main()
