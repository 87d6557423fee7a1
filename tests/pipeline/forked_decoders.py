"""Decoders of a process that has imported torch: their server is a fork of it.

The program that is the server elsewhere imports torch itself, for two seconds of CPU. Tests that
start many processes, and do not look at decoders, save that.
"""

import os
import subprocess
from types import SimpleNamespace
from typing import IO, Any

from pipeline.decode import fork_server
from pipeline.decode.child_main import main


def fork_decoders() -> None:
    """Let this process and its forks, none of which runs tests, fork their servers."""
    names = {"DEVNULL": subprocess.DEVNULL, "TimeoutExpired": subprocess.TimeoutExpired}
    fork_server.subprocess = SimpleNamespace(Popen=_Fork, **names)  # type: ignore[assignment]


class _Fork:
    """Does what the caller asks of `subprocess.Popen`."""

    def __init__(self, _: list[str], *, stderr: IO[bytes], pass_fds: list[int], **__: Any) -> None:
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid:
            return
        [jobs] = pass_fds
        try:
            os.dup2(stderr.fileno(), 2)
            os.closerange(3, jobs)  # who waits for the end of its caller must not wait for it
            os.closerange(jobs + 1, os.sysconf("SC_OPEN_MAX"))
            main(jobs)
        finally:
            os._exit(0)

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
