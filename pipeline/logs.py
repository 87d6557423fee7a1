"""Logging of the pipeline's own modules, and the one writer of lines to a terminal."""

import logging
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, TextIO

from pipeline.formatting import visible


class Level(StrEnum):
    """Lowest level of the records that are logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class VisibleFormatter(logging.Formatter):
    """Formats a record as one line, and the lines of its traceback, without hidden characters."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return the lines of a traceback."""
        return "\n".join(map(visible, super().formatException(ei).splitlines()))


def write_lines(lines: Iterable[str], file: TextIO | None = None) -> None:
    """Write lines at once, with hidden characters escaped; to stdout if no file is given."""
    print("\n".join(map(visible, lines)), file=file, flush=True)


def configure_logging(level: int | str = logging.INFO) -> None:
    """Write log records of `pipeline` and `vidtok` to stderr, from a level on.

    Call it once in each process: the command line does so in the driver. In an actor the records go
    to its worker's log, where Ray keeps stderr. Existing handlers of the root logger are kept.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    for package in ("pipeline", "vidtok"):
        logging.getLogger(package).setLevel(level)
