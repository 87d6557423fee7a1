"""The blocks that Ray Data makes, as a thread pulls them; and the end of an execution."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

from pipeline.errors import redacted

_AHEAD: Final = 20
"""Maximum number of references that wait to be taken."""

_POLL_S: Final = 0.2

_STOP_S: Final = 10.0
"""Maximum seconds that the end of a pass waits for Ray Data."""


class Stopper:
    """Ends an execution of Ray Data, which waits for ever if no actor runs.

    Ray Data makes one for each execution and calls its methods in steps of a fraction of a second.
    """

    of: ClassVar[dict[threading.Thread, "Stopper"]] = {}
    """Thread that iterates over the blocks → its execution."""

    def __init__(self) -> None:
        self.stop = False

    def before_execution_starts(self, executor: object) -> None:
        """Let the thread that iterates be found."""
        self.of[threading.current_thread()] = self

    def on_execution_step(self, executor: object) -> None:
        """End the execution if it shall stop."""
        if self.stop:
            raise InterruptedError("the pass ended")

    def after_execution_succeeds(self, executor: object) -> None:
        """Do nothing."""

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        """Do nothing."""


class References:
    """References of the result's blocks. A thread pulls them, and waits while nobody takes them."""

    def __init__(self, execute: Callable[[], Iterator[Any]]) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=_AHEAD)
        self._end = object()
        self._closed = False
        self.is_dry = False
        self.error: str | None = None
        """The error that ended the execution early; None if none did."""
        self._thread = threading.Thread(target=self._pull, args=(execute,), daemon=True)
        self._thread.start()

    def take(self, at_most: int, wait_s: float) -> list[Any]:
        """Return the references that are ready; wait only for the first."""
        taken: list[Any] = []
        while len(taken) < at_most and not self.is_dry:
            try:
                item = self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
            except queue.Empty:
                break
            wait_s = 0
            if item is self._end:
                self.is_dry = True
            else:
                taken.append(item)
        return taken

    def close(self) -> None:
        """Stop pulling, and end an execution that still runs."""
        self._closed = True
        if execution := Stopper.of.get(self._thread):
            execution.stop = True
        self._thread.join(_STOP_S)

    def _pull(self, execute: Callable[[], Iterator[Any]]) -> None:
        try:
            for bundle in execute():
                for entry in bundle.blocks:
                    self._put(entry.ref)
                if self._closed:
                    break
        except Exception as error:
            self.error = f"Ray Data: {ray_cause(error)}"
        finally:
            Stopper.of.pop(threading.current_thread(), None)
            self._put(self._end)

    def _put(self, item: Any) -> None:
        while not self._closed:
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=_POLL_S)
                return


def ray_cause(error: BaseException) -> str:
    """Return a Ray error in one line: it quotes a traceback, whose last line is the cause."""
    lines = [line.strip() for line in redacted(str(error)).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[-1:]])
