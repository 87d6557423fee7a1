"""What verification finds wrong, and the words for it."""

from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal[
    "log",
    "counts",
    "missing",
    "size",
    "checksum",
    "unreadable",
    "schema",
    "rows",
    "doubled",
    "order",
    "shape",
    "range",
    "non_finite",
    "statistics",
    "quarantine",
    "source",
    "tokens",
]


KINDS: Final[dict[Kind, str]] = {
    "log": "the log, the manifest and dataset.json do not agree, or one of them is damaged",
    "counts": "the numbers of a unit's record do not add up",
    "missing": "a record names a file that is not there",
    "size": "a file has another length than its record says",
    "checksum": "a file has other bytes than its record and its name say",
    "unreadable": "a file is no Parquet",
    "schema": "a file has other columns or metadata than the dataset",
    "rows": "rows are not as many as recorded, or not those of their unit",
    "doubled": "a clip has two rows, or a row and a quarantine record",
    "order": "rows are not in the order of the format",
    "shape": "cells do not fill their shape, or the shape is not that of the model",
    "range": "a code index lies outside the codebook",
    "non_finite": "a latent holds NaN or infinity",
    "statistics": "a record's statistics are not those of its rows",
    "quarantine": "the quarantine is not what the record counts",
    "source": "a clip cannot be found in its source again",
    "tokens": "the source's clip gives other tokens now",
}
"""Every kind of finding, with what it means to a person."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong."""

    kind: Kind
    where: str
    """Path of a file, id of a unit or of a clip."""
    detail: str
