"""Marks in the processes of a job; `benchmarks.start` places this file as `sitecustomize.py`.

Every Python process of the job runs it first, so it imports next to nothing. It wraps functions of
modules when they are imported; a name that a tree lacks gives no mark.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

FILE = "VIDTOK_START_MARKS"
"""Environment variable with the path of the file that gets the marks."""

MARKS = {
    "pipeline.job.config_checks": {"load_config": "config read"},
    "ray._private.worker": {"init": "Ray up"},
    "pipeline.job.setup": {"open_tokenizers": "models open"},
    "pipeline.job.collector": {"Collector.__init__": "graph started"},
    "pipeline.job.workers": {
        "DecodeWorker.__init__": "decode actor ready",
        "TokenizeWorker.__init__": "tokenize actor ready",
        "DecodeWorker.__call__": "decode actor called",
    },
    "pipeline.decode.child.process": {"Child.__init__": "decoder process ready"},
    "pipeline.stages.messages": {"decoded_row": "first decoded row"},
    "pipeline.stages.tokenize": {"TokenizeStage.__call__": "first tokenized row"},
    "pipeline.stages.commit": {"commit_unit": "first commit"},
    "pipeline.dataset.log.commit_log": {"CommitLog.append": "first record in the log"},
}
"""Module → function → its mark, which is the end of the first call in a process."""


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the watched modules as the others do, and wraps their functions."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in MARKS:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                for where, text in MARKS[name].items():
                    _wrap(module, where, text)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _wrap(module: ModuleType, where: str, text: str) -> None:
    owner: Any = module
    *parents, last = where.split(".")
    for parent in parents:
        owner = getattr(owner, parent, None)
    if (function := getattr(owner, last, None)) is not None:
        setattr(owner, last, _marking(function, text))


def _marking(function: Callable[..., Any], text: str) -> Callable[..., Any]:
    from functools import wraps

    @wraps(function)
    def marked(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        mark(text)
        return result

    return marked


_made: set[str] = set()


def mark(text: str) -> None:
    """Append a mark, once in a process: seconds of the system's clock, process and text."""
    if text not in _made:
        _made.add(text)
        line = f"{time.monotonic():.4f}\t{os.getpid()}\t{text}\n"
        with open(os.environ[FILE], "a") as file:
            file.write(line)


if FILE in os.environ and __name__ == "sitecustomize":
    mark("Python up")
    sys.meta_path.insert(0, _Finder())
