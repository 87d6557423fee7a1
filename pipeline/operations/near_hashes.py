"""Pairs and groups of 64-bit hashes within a Hamming distance, found exactly.

Two hashes that differ in at most d of 64 bits differ in at most d // 4 bits in one of four bands of
16 bits. So only hashes whose bands are that close are compared: multi-index hashing (Norouzi,
Punjani and Fleet, arXiv 1307.2982).
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_DISTANCE: Final = 15
"""Largest distance that is looked for. More bits than these are common between unlike pictures."""

_BANDS: Final = 4
_BITS: Final = 16
_AT_ONCE: Final = 1 << 22
"""Number of pairs that are compared at once."""

Pairs = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]


def near_pairs(hashes: NDArray[np.uint64], distance: int) -> Iterator[Pairs]:
    """Yield all pairs of hashes within a Hamming distance, each once.

    Args:
        hashes: [N], all different.
        distance: maximum number of bits that differ, at most `MAX_DISTANCE`.

    Yields:
        Places [n] of the first and of the second hash, first < second, and the bits [n] that
        differ.
    """
    radius = distance // _BANDS
    masks = [
        sum(1 << bit for bit in bits)
        for count in range(radius + 1)
        for bits in combinations(range(_BITS), count)
    ]
    for band in range(_BANDS):
        keys = _band(hashes, band)
        order = np.argsort(keys, kind="stable")
        ends = np.cumsum(np.bincount(keys, minlength=1 << _BITS))
        for mask in masks:
            for one, other in _candidates(keys[order], ends, mask):
                i, j = order[one], order[other]
                differ = hashes[i] ^ hashes[j]
                near = np.bitwise_count(differ) <= distance
                for earlier in range(band):  # in which these pairs were found already
                    near &= np.bitwise_count(_band(differ, earlier)) > radius
                i, j = i[near], j[near]
                bits = np.bitwise_count(differ[near])
                yield np.minimum(i, j), np.maximum(i, j), bits


def _band(values: NDArray[np.uint64], band: int) -> NDArray[np.uint16]:
    return (values >> np.uint64(band * _BITS)).astype(np.uint16)


def _candidates(
    keys: NDArray[np.uint16], ends: NDArray[np.int64], mask: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield places of sorted keys with those of the keys that differ from them in `mask`.

    Of each two places only one order occurs.
    """
    partner = keys ^ np.uint16(mask)
    start, stop = np.where(partner > 0, ends[partner.astype(np.int64) - 1], 0), ends[partner]
    if mask:
        stop = np.where(partner > keys, stop, start)
    else:
        start = np.arange(1, len(keys) + 1)  # a key's partners are those behind it
    counts = stop - start
    for some in np.split(np.arange(len(keys)), _cuts(counts)):
        many = counts[some]
        total = int(many.sum())
        if total:
            offsets = np.arange(total) - np.repeat(np.cumsum(many) - many, many)
            yield np.repeat(some, many), np.repeat(start[some], many) + offsets


def _cuts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where to cut, so that each piece has few pairs, unless one place alone has many."""
    pieces = np.cumsum(counts) // _AT_ONCE
    return np.flatnonzero(np.diff(pieces)) + 1


def leaders(
    hashes: NDArray[np.uint64], distance: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return the leader of each hash, so that nobody is further than `distance` from its leader.

    In their order, a hash joins the nearest leader within the distance, of equally near ones the
    first; if there is none, it is a leader itself. Leaders are further from each other than
    `distance`.

    Args:
        hashes: [N], all different.
        distance: as in `near_pairs`.

    Returns:
        Places [N] of the leaders, and the bits [N] that differ.
    """
    leader, bits = np.arange(len(hashes)), np.zeros(len(hashes), np.uint8)
    found = list(near_pairs(hashes, distance))
    if not found:
        return leader, bits
    first, second, differ = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((first, differ, second))
    for one, other, count in zip(
        first[order].tolist(), second[order].tolist(), differ[order].tolist(), strict=True
    ):
        if leader[other] == other and leader[one] == one:
            leader[other], bits[other] = one, count
    return leader, bits
