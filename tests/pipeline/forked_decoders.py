"""Decoders of a process that has imported torch: their server is a fork of it.

The program that is the server elsewhere imports torch itself, for two seconds of CPU. Tests that
start many processes, and do not look at decoders, save that.
"""

import os
import socket
import subprocess
from types import SimpleNamespace
from typing import IO, Any

from pipeline.decode.child import fork_server
from pipeline.decode.child.main import main


def fork_decoders() -> None:
    """Let this process and its forks, none of which runs tests, fork their servers."""
    _start_servers_by(_Fork)


def fork_one_decoder() -> None:
    """Fork the first server of this worker of Ray now, before it has threads; it waits."""
    from ray._raylet import setproctitle

    ours, theirs = socket.socketpair()
    waiting = [pid] if (pid := os.fork()) else []
    if not waiting:
        ours.close()
        _, descriptors, _, _ = socket.recv_fds(theirs, 1, 2)
        setproctitle("pipeline.decode.child.main")  # the name that chaos looks for
        _serve(*descriptors) if descriptors else os._exit(0)

    def server(command: list[str], *, stderr: IO[bytes], pass_fds: list[int], **others: Any) -> Any:
        if not waiting:
            return subprocess.Popen(command, stderr=stderr, pass_fds=pass_fds, **others)
        socket.send_fds(ours, [b" "], [stderr.fileno(), *pass_fds])
        return _Child(waiting.pop())

    _start_servers_by(server)


def _start_servers_by(start: Any) -> None:
    names = {"DEVNULL": subprocess.DEVNULL, "TimeoutExpired": subprocess.TimeoutExpired}
    fork_server.subprocess = SimpleNamespace(Popen=start, **names)  # type: ignore[assignment]


def _serve(stderr: int, jobs: int) -> None:
    try:
        os.dup2(stderr, 2)
        os.closerange(3, jobs)  # who waits for the end of its caller must not wait for it
        os.closerange(jobs + 1, os.sysconf("SC_OPEN_MAX"))
        main(jobs)
    finally:
        os._exit(0)


class _Child:
    """Does what the caller asks of a `subprocess.Popen`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        return self._ended(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        return self._ended(0)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, 9)

    def _ended(self, how: int) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, how)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code


class _Fork(_Child):
    def __init__(self, _: list[str], *, stderr: IO[bytes], pass_fds: list[int], **__: Any) -> None:
        super().__init__(os.fork())
        if not self.pid:
            _serve(stderr.fileno(), *pass_fds)
