"""Every error that the pipeline raises on purpose, split by what the caller does next.

PipelineError
├── ConfigError        the user mends the configuration or the command; nothing was started
│   └── DatasetMismatch    the output belongs to another fingerprint
├── QuarantineError    the sample or clip goes to the quarantine; the job goes on
├── UnitRejected       the unit's rows do not check out; it goes into the next pass
├── OverBudget         too much goes to the quarantine; a person looks before it goes on
└── StoreError         an object store or disk refused
    ├── AlreadyExists      put-if-absent lost: an object stands there
    └── StateUnknown       no answer came: read back and compare before concluding anything
"""

import re
from typing import Final


class PipelineError(Exception):
    """Base of all errors that the pipeline raises on purpose."""


class ConfigError(PipelineError, ValueError):
    """A setting or an argument is wrong; the text names the field, what is wrong and the mend."""


class DatasetMismatch(ConfigError):
    """The output already holds a dataset of another fingerprint or format."""


class UnitRejected(PipelineError):
    """The rows that came for a unit are not the rows that its closing row lists."""


class OverBudget(PipelineError):
    """So many samples go to the quarantine that a person should look before it goes on."""


class StoreError(PipelineError, OSError):
    """A disk or an object store refused or failed."""


class AlreadyExists(StoreError):
    """Put-if-absent found an object in place that is not ours."""


class StateUnknown(StoreError):
    """A write may or may not have been applied; read back before anything is concluded."""


_SECRET = re.compile(
    r"(?<=://)[^/@]*:[^/@]*(?=@)"
    r"|(?<=[?&])(?:X-Amz-(?:Signature|Credential|Security-Token)|X-Goog-(?:Signature|Credential)"
    r"|AWSAccessKeyId|Signature|sig|token|access_token)=[^&\s'\"]*",
    re.IGNORECASE,
)
"""User and password before a host, and the parameters by which URLs are signed."""


def redacted(text: str) -> str:
    """Return a text with `…` in place of the credentials in the URIs that it holds."""
    return _SECRET.sub("…", text)


def one_line(error: BaseException, *, max_chars: int = 500) -> str:
    """Return the type and message of an error as one line, without credentials.

    Line breaks and runs of spaces become one space. A longer message ends in `…`.
    """
    message = " ".join(redacted(str(error)).split())
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


BALANCED, UNBALANCED, BAD_CONFIG = 0, 1, 2
"""Exit codes: all accounted for; failed units, an imbalance or an error; nothing was started."""


INTERRUPTED: Final = 130
