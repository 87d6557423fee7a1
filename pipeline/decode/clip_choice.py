"""Choice of N clips of a sample that has more, while the clips arrive.

Every clip has a rank that does not depend on the other clips, and the N smallest ranks are chosen.
So no more than N clips are held, most of the others need no pixels, and a larger N keeps every clip
that a smaller one chose.

`even`
    The rank of clip i is its place in the order 0, then the multiples of the largest power of two,
    then those of half of it, and so on; of each power in this same order. Two chosen neighbours are
    never more than twice as far apart as two others.
`hash`
    The rank is a hash of the sample's key and of the time at which the clip begins.
"""

import math
from bisect import insort
from fractions import Fraction
from hashlib import blake2b
from typing import Generic, Literal, TypeVar

T = TypeVar("T")

Rank = tuple[float, ...]
"""Place of a clip among those that can be chosen; the smallest are chosen."""


def even_rank(index: int) -> Rank:
    """Return the rank of a clip by its index: the more often two divides it, the smaller."""
    powers: list[float] = []
    while index:
        twos = (index & -index).bit_length() - 1
        powers.append(-twos)
        index >>= twos + 1
    return (*powers, -math.inf)


def hash_rank(key: str, start_s: Fraction) -> Rank:
    """Return the rank of a clip by a hash of what it is."""
    digest = blake2b(f"{key}\0{start_s}".encode(errors="surrogatepass"), digest_size=16)
    return (int.from_bytes(digest.digest()),)


class Choice(Generic[T]):
    """Holds the chosen ones of the clips so far.

    Args:
        most: N.
        how: as the module says.
        key: key of the sample.
    """

    def __init__(self, most: int, how: Literal["even", "hash"], key: str) -> None:
        self._most = most
        self._how = how
        self._key = key
        self._seen = 0
        self._held: list[tuple[Rank, int, T]] = []

    def rank(self, begun: int, start_s: Fraction) -> Rank:
        """Return the rank of a clip that begins after those that were added and `begun` others."""
        if self._how == "hash":
            return hash_rank(self._key, start_s)
        return even_rank(self._seen + begun)

    def wants(self, rank: Rank) -> bool:
        """Return whether a clip may be chosen; the others need no pixels."""
        return len(self._held) < self._most or rank < self._held[-1][0]

    def add(self, rank: Rank, clip: T) -> T | None:
        """Count a clip; return the one that is left out, which can be itself."""
        insort(self._held, (rank, self._seen, clip), key=lambda held: held[:2])
        self._seen += 1
        return self._held.pop()[2] if len(self._held) > self._most else None

    def rest(self) -> list[T]:
        """Return the chosen clips in the order in which they were added, and forget them."""
        held, self._held = sorted(self._held, key=lambda held: held[1]), []
        return [clip for _, _, clip in held]
