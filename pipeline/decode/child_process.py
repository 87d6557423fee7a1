"""The parent's handle on one child process: start, talk with a deadline, kill, say how it died."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from io import FileIO
from typing import Any

from pipeline.decode.damage import one_line
from pipeline.decode.protocol import receive, receive_into, send
from pipeline.errors import PipelineError

LAST_WORDS_BYTES = 4096


START_S = 120.0
"""For the child to import torch from a cold or a networked disk."""


LOOK_S = 5.0
"""Between looks at a child that starts. One that is stopped at two looks will not go on by itself;
one that is merely slow, whether for want of a CPU or of its disk, is not stopped."""


ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # One arena, and the heap's top given back when freed: what one video took is not kept for the
    # next. Setting that alone would put every picture into pages of its own, at twice the time.
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
}


class ChildDied(Exception):
    """The child is gone; `cause` says how."""

    def __init__(self, cause: str, *, timed_out: bool) -> None:
        super().__init__(cause)
        self.cause = cause
        self.timed_out = timed_out


class Child:
    """One decoder process. Waits for it to be ready when the first job is sent."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._stderr = anonymous_file()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipeline.decode.child_main", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                env=os.environ | ENVIRONMENT | {"PYTHONPATH": import_path()},
            )
        self._ready = False

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def await_ready(self) -> None:
        """Wait until the process can take a job.

        Raises:
            PipelineError: it could not start; that is the installation, not a video.
        """
        if self._ready:
            return
        try:
            self._await_word()
            kind = self.receive(LOOK_S).get("kind")
        except ChildDied as error:
            raise PipelineError(f"the decoder process does not start: {error.cause}") from error
        if kind != "ready":
            raise PipelineError(f"the decoder process says {kind!r} instead of 'ready'")
        self._ready = True

    def submit(self, job: dict[str, Any], fd: int) -> None:
        """Hand over a job and its open file.

        Raises:
            PipelineError: the child could not start; that is the installation, not the video.
            ChildDied: it died since the last job.
        """
        self.await_ready()
        try:
            send(self._socket, job, fd=fd)
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
        except TimeoutError as error:
            self.kill()
            raise ChildDied("it was silent", timed_out=True) from error
        except (EOFError, OSError) as error:
            raise self._died() from error

    def receive_into(self, payload: memoryview) -> None:
        """Fill a buffer with the payload of the header just received; raises as `receive` does."""
        try:
            receive_into(self._socket, payload)
        except TimeoutError as error:
            self.kill()
            raise ChildDied("it was silent", timed_out=True) from error
        except (EOFError, OSError) as error:
            raise self._died() from error

    def kill(self) -> None:
        """End the process, whatever it does, and free what stands for it."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
        self._stderr.close()

    def _await_word(self) -> None:
        """Return when there is something to receive, or it took START_S; kill a stopped child."""
        stopped = False
        self._socket.settimeout(LOOK_S)
        for _ in range(int(START_S / LOOK_S)):
            try:
                self._socket.recv(1, socket.MSG_PEEK)
                return
            except TimeoutError:
                was_stopped, stopped = stopped, self._is_stopped()
            except OSError:
                return  # receiving says how it died
            if was_stopped and stopped:
                self.kill()
                raise ChildDied("it was stopped (SIGSTOP) and has been killed", timed_out=True)

    def _is_stopped(self) -> bool:
        if sys.platform != "linux":
            return False
        look = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, look) is not None

    def _died(self) -> ChildDied:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        code = self._process.returncode
        said = self._last_words()
        self.kill()
        if code is None:
            return ChildDied("it closed its socket" + said, timed_out=False)
        if code == -signal.SIGALRM:
            return ChildDied("its alarm went off", timed_out=True)
        if code == -signal.SIGKILL:
            how = "it was killed (SIGKILL), perhaps by the kernel for want of memory"
            return ChildDied(how, timed_out=False)
        if code < 0:
            return ChildDied(f"it died of {signal.Signals(-code).name}{said}", timed_out=False)
        return ChildDied(f"it exited with code {code}{said}", timed_out=False)

    def _last_words(self) -> str:
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f": {one_line(lines[-1])}" if lines else ""


def import_path() -> str:
    """Return PYTHONPATH for the child: it imports what we import, from where we do."""
    return os.pathsep.join(folder or os.getcwd() for folder in sys.path)


def anonymous_file() -> FileIO:
    """Return an empty file without a name, in memory where the system can do that."""
    if hasattr(os, "memfd_create"):
        return FileIO(os.memfd_create("video"), "r+")
    fd, path = tempfile.mkstemp()
    os.unlink(path)
    return FileIO(fd, "r+")
