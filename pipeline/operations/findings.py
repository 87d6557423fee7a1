"""Kinds of faults that verification reports."""

from dataclasses import dataclass
from typing import Final

KINDS: Final = {
    "log": "the log, the manifest and dataset.json disagree, or one of them is damaged",
    "counts": "the counts of a unit's record do not add up",
    "missing": "a record names a file that does not exist",
    "size": "the length of a file differs from its record",
    "checksum": "the content of a file differs from its record or its name",
    "unreadable": "a file is not readable as Parquet",
    "schema": "columns or metadata of a file differ from the dataset",
    "rows": "the number of rows differs from the record, or a row belongs to another unit",
    "doubled": "a clip has two rows, or a row and a quarantine record",
    "order": "rows are not in the order that the format requires",
    "shape": "cells do not fill their shape, or the shape is not that of the model",
    "range": "a code index is outside the codebook, or a latent in uint8 has too many bits",
    "scale": "the scale of latents has a wrong length, NaN, infinity or a negative step",
    "non_finite": "a latent contains NaN or infinity",
    "statistics": "the statistics of a record differ from those of its rows",
    "quarantine": "the quarantine table differs from the counts of the record",
    "forgotten": "rows of forgotten samples still count; run the same forget again",
    "remains": "a file still holds forgotten samples that no longer count",
    "source": "a clip cannot be decoded from its source again",
    "tokens": "encoding the source's clip again gives other tokens",
}
"""Meaning of each kind of finding."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault."""

    kind: str
    """Word of `KINDS`."""
    where: str
    """Path of a file, or id of a unit or clip."""
    detail: str

    def __str__(self) -> str:
        return f"{self.where}: {self.detail}"
