"""Libraries that take seconds to import, imported where a test first uses them.

Each process of the suite collects all tests, and runs those of few files.
"""

import importlib
from typing import Any


class Lazy:
    """A module that is imported with the first look at one of its names."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest looks at what modules contain, for fixtures
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)


charts = Lazy("pipeline.operations.report.charts")
cv2 = Lazy("cv2")
deltalake = Lazy("deltalake")
diffusers = Lazy("diffusers")
polars = Lazy("polars")
tables = Lazy("pyiceberg.table")
transformers = Lazy("transformers")
