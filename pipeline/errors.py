"""All errors that the pipeline raises on purpose, by what the caller does next.

PipelineError
├── ConfigError        the user corrects the configuration or the command; nothing was started
│   └── DatasetMismatch    the output has another fingerprint
├── QuarantineError    the sample or clip is quarantined; the job continues (`pipeline.quarantine`)
├── UnitRejected       the rows of a unit are not complete; the unit is retried in the next pass
├── OverBudget         too many samples are quarantined; a person decides how to continue
├── RayNotStarted      Ray did not start on this machine; the same command can be run again
├── Diverged           a training diverged; its settings must change
├── StageStalled       no actor of a stage runs; the same command continues when one can run
└── StoreError         an object store or a disk failed
    ├── DamagedFile        a file of the dataset is missing or damaged; another try does not help
    ├── AlreadyExists      put-if-absent found an object
    └── StateUnknown       a write was not answered; read back and compare
"""

import re
from typing import Final


class PipelineError(Exception):
    """Base of all errors that the pipeline raises on purpose."""


class ConfigError(PipelineError, ValueError):
    """A setting or an argument is wrong. The text names the field, the rule and the fix."""


class DatasetMismatch(ConfigError):
    """The output holds a dataset of another fingerprint or format."""


class UnitRejected(PipelineError):
    """The rows received for a unit are not the rows that its closing row lists."""


class OverBudget(PipelineError):
    """More samples are quarantined than the configuration allows."""


class RayNotStarted(PipelineError):
    """Ray did not start on this machine."""


class Diverged(PipelineError):
    """A loss, a gradient or a weight of a training is not finite."""


class StageStalled(PipelineError):
    """No actor of a stage has run for longer than the configuration allows."""


class StoreError(PipelineError, OSError):
    """A disk or an object store refused a request or failed."""


class DamagedFile(StoreError):
    """A file of the dataset is missing, or its content is damaged."""


class AlreadyExists(StoreError):
    """Put-if-absent found an object that another process wrote."""


class StateUnknown(StoreError):
    """A write was applied or not: read the object back before you continue."""


_SECRET = re.compile(
    r"(?<=://)[^/@]*:[^/@]*(?=@)"
    r"|(?<=[?&])(?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|AWSAccessKeyId|Signature|sig|token|access_token)=[^&\s'\"]*",
    re.IGNORECASE,
)
"""User and password before a host, and the parameters that sign a URL."""


def redacted(text: str) -> str:
    """Return a text with `…` in place of the credentials in its URIs."""
    return _SECRET.sub("…", text)


def message_of(error: BaseException) -> str:
    """Return the message of an error as one line, without credentials; empty if it has none."""
    return " ".join(redacted(str(error)).split())


def one_line(error: BaseException, *, max_chars: int = 500) -> str:
    """Return the type and message of an error as one line, without credentials.

    Line breaks and runs of spaces become one space. A longer message ends in `…`.
    """
    message = message_of(error)
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


BALANCED, UNBALANCED, BAD_CONFIG = 0, 1, 2
"""Exit codes: success; failed units, counts that do not match, or an error; wrong configuration."""


INTERRUPTED: Final = 130
"""Exit code after Ctrl-C."""

EXIT_CODES: Final = {
    BALANCED: "success; for a job: every planned unit is committed, and every sample and clip is"
    " accounted for",
    UNBALANCED: "units failed, counts do not match, or an error ended the run; run the command"
    " again",
    BAD_CONFIG: "the command or the configuration is wrong, or credentials are missing; no work was"
    " done",
    INTERRUPTED: "interrupted; run the command again",
}
"""Meaning of each exit code of the command line."""
