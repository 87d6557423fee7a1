"""Deadline and memory limit of a decoder process, both enforced by the kernel.

A decoder can spin inside C while it holds the interpreter's lock, so neither a thread nor a Python
signal handler can end it. An alarm with the default action can: the kernel kills the process. The
alarm is set again at each sign of progress. The caller has a deadline of its own, which comes
first; the alarm is for the case that the caller has died.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable

ALARM_FACTOR = 1.5
"""Ratio of the alarm to the caller's deadline, which must come first."""


BEAT_S = 1.0
"""Seconds between two messages to the caller while there is progress."""


class Watchdog:
    """Reports progress to the caller; kills the process if there is none.

    Args:
        timeout_s: maximum number of seconds without progress.
        beat: tells the caller; called about once a second while there is progress.
    """

    def __init__(self, timeout_s: float, beat: Callable[[], None]) -> None:
        self._timeout_s = timeout_s
        self._beat = beat
        self._every_s = min(BEAT_S, timeout_s / 4)
        self._last = time.monotonic()
        self._parent = os.getppid()

    def progress(self) -> None:
        """Report progress. It usually costs one clock read."""
        now = time.monotonic()
        if now - self._last >= self._every_s:
            if os.getppid() != self._parent:
                os._exit(1)
            self._last = now
            self.stop_alarm()
            self._beat()
            self.start_alarm()

    def start_alarm(self) -> None:
        """Set the alarm again."""
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s * ALARM_FACTOR)

    def stop_alarm(self) -> None:
        """Stop the alarm: the process may wait for the caller without limit."""
        signal.setitimer(signal.ITIMER_REAL, 0)


def private_bytes() -> int:
    """Return the number of writable private bytes that this process maps, as RLIMIT_DATA counts."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmData")


def limit_memory(base: int, added: int | None) -> None:
    """Let the process map `added` bytes above `base`; None lifts the limit.

    RLIMIT_DATA counts private writable mappings: heap, frames and tensors. It does not count code
    and the file in shared memory. Beyond it malloc fails, which FFmpeg, numpy and torch report.
    Only Linux counts in this way; other systems have no limit here.
    """
    if sys.platform == "linux":
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        soft = hard if added is None else base + added
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
