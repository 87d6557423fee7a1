"""The quarantine record of a sample that could not be read."""

from pipeline.errors import redacted
from pipeline.quarantine import Quarantined


def read_fault(unit: str, key: str, reason: str, detail: str) -> Quarantined:
    """Return the record of a sample that could not be read; without credentials of its URI."""
    return Quarantined(
        unit=unit, key=key, clip_index=None, stage="read", reason=reason, detail=redacted(detail)
    )
