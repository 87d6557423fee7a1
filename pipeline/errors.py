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

from pipeline.records import Stage


class PipelineError(Exception):
    """Base of all errors that the pipeline raises on purpose."""


class ConfigError(PipelineError, ValueError):
    """A setting or an argument is wrong; the text names the field, what is wrong and the mend."""


class DatasetMismatch(ConfigError):
    """The output already holds a dataset of another fingerprint or format."""


class QuarantineError(PipelineError):
    """A sample or clip cannot become tokens.

    Args:
        stage: where it failed.
        reason: one of `pipeline.records.REASONS`, a short word that summaries count by.
        detail: what the library said, for a person.
        attempts: how often it was tried.
    """

    def __init__(self, stage: Stage, reason: str, detail: str, *, attempts: int = 1) -> None:
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage: Stage = stage
        self.reason = reason
        self.detail = detail
        self.attempts = attempts


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
