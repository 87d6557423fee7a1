"""Logging of the pipeline's own modules."""

import logging
from enum import StrEnum


class Level(StrEnum):
    """Lowest level of the records that are logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def configure_logging(level: int | str = logging.INFO) -> None:
    """Write log records of `pipeline` and `vidtok` to stderr, from a level on.

    Call it once in each process: the command line does so in the driver. In an actor the records go
    to its worker's log, where Ray keeps stderr. Existing handlers of the root logger are kept.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for package in ("pipeline", "vidtok"):
        logging.getLogger(package).setLevel(level)
