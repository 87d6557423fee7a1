"""Extrapolates a total from a few work units, with its standard error."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, variance

from pipeline.records import WorkUnit


@dataclass(frozen=True, slots=True)
class Estimate:
    """A total over units, some of which were probed."""

    value: float
    error: float | None
    """Two standard errors, about a 95 % confidence interval. 0: all units were counted. None: one
    unit gives no estimate of the variance."""

    def times(self, factor: float) -> "Estimate":
        """Return the estimate multiplied by a factor."""
        return Estimate(self.value * factor, None if self.error is None else self.error * factor)


@dataclass(frozen=True, slots=True)
class Stratum:
    """Units of one kind."""

    units: int
    """Number of units."""
    found: Sequence[float]
    """Values of the probed units; at least one if there are units."""
    counted: bool
    """Whether the values are exact; otherwise they are estimates themselves."""


def evenly(units: Sequence[WorkUnit], probes: int, of: int) -> list[WorkUnit]:
    """Return units at even distances: their share of `probes` among `of` units, at least one."""
    if not units or not probes:
        return []
    count = min(len(units), max(1, round(probes * len(units) / of)))
    return [units[(2 * n + 1) * len(units) // (2 * count)] for n in range(count)]


def total(strata: Iterable[Stratum]) -> Estimate:
    """Return the sum over all units of all kinds, treating the probed ones as a random sample."""
    value, square = 0.0, 0.0
    known = True
    for stratum in strata:
        probed = len(stratum.found)
        value += stratum.units * mean(stratum.found)
        if stratum.counted and probed == stratum.units:
            continue
        if probed == 1:
            known = False
            continue
        unseen = 1 - probed / stratum.units if stratum.counted else 1.0
        square += stratum.units**2 * variance(stratum.found) / probed * unseen
    return Estimate(value, 2 * math.sqrt(square) if known else None)
