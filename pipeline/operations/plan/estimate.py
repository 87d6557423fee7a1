"""From a few work units to all of them: a total, and how far off it may be."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, variance
from typing import Any


@dataclass(frozen=True, slots=True)
class Estimate:
    """A total over units of which some were looked into."""

    value: float
    error: float | None
    """Two standard errors: in about 19 of 20 draws the truth is no farther off. 0: all was counted;
    None: there is no telling, since one unit shows no spread."""

    def times(self, factor: float) -> "Estimate":
        """Return the estimate in another unit of measure."""
        return Estimate(self.value * factor, None if self.error is None else self.error * factor)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        error = self.error
        return {"value": round(self.value, 4), "error": error and round(error, 4)}


@dataclass(frozen=True, slots=True)
class Stratum:
    """Units of one kind: how many there are, and what was found in those that were looked into."""

    units: int
    found: Sequence[float]
    """At least one value, if there are units."""
    counted: bool
    """Whether these are what the units hold, not estimates of it."""


def total(strata: Iterable[Stratum]) -> Estimate:
    """Return the sum over all units of all kinds, as if those looked into were drawn at random."""
    value, square = 0.0, 0.0
    known = True
    for stratum in strata:
        looked = len(stratum.found)
        value += stratum.units * mean(stratum.found)
        if stratum.counted and looked == stratum.units:
            continue
        if looked == 1:
            known = False
            continue
        unseen = 1 - looked / stratum.units if stratum.counted else 1.0
        square += stratum.units**2 * variance(stratum.found) / looked * unseen
    return Estimate(value, 2 * math.sqrt(square) if known else None)
