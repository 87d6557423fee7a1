"""The caller's handle on the fork server, the process that decoder processes are forked from.

The server imports torch and FFmpeg once, which takes seconds. A fork of it takes milliseconds.
Each process of the pipeline has at most one server. It holds no state of any video, and it is
replaced when it has died.
"""

import atexit
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from io import FileIO
from typing import Any

from pipeline.decode.child.protocol import receive, send
from pipeline.decode.damage import flat
from pipeline.errors import PipelineError

LAST_WORDS_BYTES = 4096
"""Bytes of a dead process's stderr that are searched for its last line."""


START_S = 120.0
"""Seconds that the server may take to import torch from a cold or a networked disk."""


CHECK_S = 5.0
"""Seconds between checks of a server that does not answer. A server that is stopped (SIGSTOP) at
two checks in a row is killed. A server that only waits for a CPU or its disk is not stopped."""


ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # One arena, and the top of the heap is returned when freed: memory that one video took is not
    # kept for the next. The trim threshold alone would map each picture again, at twice the time.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}


PROGRAM = (
    "import gc, sys; gc.disable(); "
    "from pipeline.decode.child.main import main; main(int(sys.argv[1]))"
)
"""What the server runs. Imports leave no garbage; looking for it takes a tenth of their time."""


_log = logging.getLogger(__name__)


class ServerDied(PipelineError):
    """The fork server was ready and has ended since."""


class ForkServer:
    """One fork server. Starts at once; `fork` waits until it is ready. Safe for several threads."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._stderr = anonymous_file()
        self._owner = os.getpid()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                env=os.environ | ENVIRONMENT | {"PYTHONPATH": import_path()},
            )
        self._lock = threading.Lock()
        self._ready = False

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_usable(self) -> bool:
        """Whether the server runs, and was started by this process."""
        return self._owner == os.getpid() and self._process.poll() is None

    def fork(self, sock: socket.socket, stderr: FileIO) -> int:
        """Fork a decoder process and return its process id.

        Args:
            sock: end of a socket pair on which the decoder process receives its jobs.
            stderr: file that receives what the decoder process writes to stderr.

        Raises:
            ServerDied: the server has ended since its last answer.
            PipelineError: the server cannot start; the installation is broken, not a video.
        """
        with self._lock:
            return int(self._ask({"kind": "fork"}, [sock.fileno(), stderr.fileno()])["pid"])

    def end(self, pid: int, grace_s: float) -> int | None:
        """Kill a decoder process if it does not end by itself, and free its process id.

        Args:
            pid: a process that `fork` returned.
            grace_s: seconds before it is killed.

        Returns:
            Its exit code; None if it was killed, has been freed before, or is not known because
            the server has died.
        """
        with self._lock:
            try:
                code = self._ask({"kind": "end", "pid": pid, "grace_s": grace_s})["code"]
            except PipelineError:
                return None
        return None if code is None else int(code)

    def close(self) -> None:
        """Kill the server. Its decoder processes end when they next report progress."""
        if self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
        self._socket.close()
        self._stderr.close()

    def _ask(self, request: dict[str, Any], fds: Sequence[int] = ()) -> dict[str, Any]:
        if self._stderr.closed:
            raise ServerDied("the decoder's fork server has ended")
        try:
            if not self._ready:
                self._answer()
                self._ready = True
            send(self._socket, request, fds=fds)
            return self._answer()
        except (EOFError, OSError) as error:
            cause = str(error) if isinstance(error, TimeoutError) else self._cause()
            self.close()
            if self._ready:
                raise ServerDied(f"the decoder's fork server has died: {cause}") from error
            raise PipelineError(
                f"the decoder process does not start: {cause}; run `python -m pipeline doctor` on"
                " that node"
            ) from error

    def _answer(self) -> dict[str, Any]:
        """Return the next message of the server; raise TimeoutError if none comes."""
        stopped = False
        self._socket.settimeout(CHECK_S)
        for _ in range(int(START_S / CHECK_S)):
            try:
                self._socket.recv(1, socket.MSG_PEEK)
                return receive(self._socket)
            except TimeoutError:
                was_stopped, stopped = stopped, self._is_stopped()
            if was_stopped and stopped:
                raise TimeoutError("it was stopped (SIGSTOP) and has been killed")
        raise TimeoutError(f"it was silent for {START_S:g} s and has been killed")

    def _is_stopped(self) -> bool:
        if sys.platform != "linux":
            return False
        options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def _cause(self) -> str:
        try:
            code: int | None = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        return cause_of_death(code, self._stderr)


_server: ForkServer | None = None


_server_lock = threading.Lock()


def fork_server() -> ForkServer:
    """Return the fork server of this process; start one if there is none. Does not wait for it."""
    global _server
    with _server_lock:
        if _server is None or not _server.is_usable:
            if _server is not None:
                _server.close()
                _log.warning("the fork server %d has ended; starting another", _server.pid)
            _server = ForkServer()
        return _server


@atexit.register
def close_fork_server() -> None:
    """Kill the fork server of this process, if there is one."""
    global _server
    with _server_lock:
        if _server is not None:
            _server.close()
        _server = None


def cause_of_death(code: int | None, stderr: FileIO) -> str:
    """Return how a process ended: its exit code or signal, and the last line of its stderr.

    Args:
        code: exit code, negative for a signal; None if the process had not ended by itself.
        stderr: what the process wrote there.
    """
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL), perhaps by the kernel for lack of memory"
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
    lines = stderr.read().decode(errors="replace").strip().splitlines()
    last = f": {flat(lines[-1])}" if lines else ""
    if code is None:
        return f"it closed its socket{last}"
    if code < 0:
        return f"it died of {signal.Signals(-code).name}{last}"
    return f"it exited with code {code}{last}"


def import_path() -> str:
    """Return PYTHONPATH for the server: it imports the same modules from the same places."""
    return os.pathsep.join(folder or os.getcwd() for folder in sys.path)


def anonymous_file() -> FileIO:
    """Return an empty file without a name, in memory where the system supports that."""
    if hasattr(os, "memfd_create"):
        return FileIO(os.memfd_create("video"), "r+")
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return FileIO(fd, "r+")
