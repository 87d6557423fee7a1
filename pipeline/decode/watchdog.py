"""How the child makes sure that it cannot outlive its use: by the kernel, not by good will.

A decoder can spin inside C while it holds the interpreter's lock, so neither a thread nor a Python
signal handler can end it. An alarm with the default action can: the kernel kills the process. It is
set again at each sign of progress. It stands behind the parent's own deadline, for the case that
the parent is gone.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable

ALARM_FACTOR = 1.5
"""The parent's deadline comes first; the child's own is for when there is no parent."""


BEAT_S = 1.0


class Watchdog:
    """Beats while work moves; kills the process when it does not.

    Args:
        timeout_s: without progress.
        beat: tells the parent; called about once a second, while work moves.
    """

    def __init__(self, timeout_s: float, beat: Callable[[], None]) -> None:
        self._timeout_s = timeout_s
        self._beat = beat
        self._every_s = min(BEAT_S, timeout_s / 4)
        self._last = time.monotonic()
        self._parent = os.getppid()

    def progress(self) -> None:
        """Say that work moves. Costs a clock read, most of the time."""
        now = time.monotonic()
        if now - self._last >= self._every_s:
            if os.getppid() != self._parent:
                os._exit(1)
            self._last = now
            self.rest()
            self._beat()
            self.watch()

    def watch(self) -> None:
        """Start the alarm anew."""
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s * ALARM_FACTOR)

    def rest(self) -> None:
        """Stop the alarm: what follows may wait for the parent as long as it pleases."""
        signal.setitimer(signal.ITIMER_REAL, 0)


def private_bytes() -> int:
    """Return how much writable private memory this process has mapped: what RLIMIT_DATA counts."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmData")


def limit_memory(base: int, added: int | None) -> None:
    """Let the process map `added` bytes above `base`; None lifts the limit.

    RLIMIT_DATA counts private writable mappings: heap, frames, tensors; not code, not the file in
    shared memory. Beyond it malloc fails, which FFmpeg, numpy and torch report. Other systems than
    Linux count otherwise and have no limit here.
    """
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = hard if added is None else base + added
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
