"""The caller's handle on one decoder process: fork it, talk to it, kill it, explain its death."""

import signal
import socket
from contextlib import suppress
from typing import Any

from pipeline.decode.child.fork_server import (
    ForkServer,
    ServerDied,
    anonymous_file,
    cause_of_death,
    fork_server,
)
from pipeline.decode.child.protocol import receive, receive_into, send

GRACE_S = 5.0
"""Seconds in which a process that closed its socket must end by itself, so that its exit code is
known."""


class ChildDied(Exception):
    """The decoder process has ended; the text says how."""

    def __init__(self, cause: str, *, timed_out: bool) -> None:
        super().__init__(cause)
        self.timed_out = timed_out


class Child:
    """One decoder process, ready for a job.

    Raises:
        PipelineError: it cannot start; the installation is broken, not a video.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._stderr = anonymous_file()
        with theirs:
            try:
                self._server, self.pid = self._fork(theirs)
            except BaseException:
                self._close()
                raise

    def _fork(self, theirs: socket.socket) -> tuple[ForkServer, int]:
        with suppress(ServerDied):  # then another server is started
            server = fork_server()
            return server, server.fork(theirs, self._stderr)
        server = fork_server()
        return server, server.fork(theirs, self._stderr)

    def submit(self, job: dict[str, Any], fd: int) -> None:
        """Hand over a job and its open file.

        Raises:
            ChildDied: it died since the last job.
        """
        try:
            send(self._socket, job, fds=[fd])
        except OSError as error:
            raise self._died() from error

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the next header.

        Raises:
            ChildDied: it died, or was silent for `timeout_s` and has been killed.
        """
        self._socket.settimeout(timeout_s)
        try:
            return receive(self._socket)
        except (EOFError, OSError) as error:
            raise self._died(error) from error

    def receive_into(self, payload: memoryview) -> None:
        """Fill a buffer with the payload of the header just received; raises as `receive` does."""
        try:
            receive_into(self._socket, payload)
        except (EOFError, OSError) as error:
            raise self._died(error) from error

    def kill(self) -> None:
        """End the process, whatever it does, and free its resources."""
        self._server.end(self.pid, 0.0)
        self._close()

    def _died(self, error: Exception | None = None) -> ChildDied:
        if isinstance(error, TimeoutError):
            self.kill()
            return ChildDied("it was silent", timed_out=True)
        code = self._server.end(self.pid, GRACE_S)
        cause = cause_of_death(code, self._stderr)
        self._close()
        if code == -signal.SIGALRM:
            return ChildDied("its alarm went off", timed_out=True)
        return ChildDied(cause, timed_out=False)

    def _close(self) -> None:
        self._socket.close()
        self._stderr.close()
