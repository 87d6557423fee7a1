"""What the search for near-duplicates costs, compared with comparing every pair of hashes.

    python -m benchmarks.duplicates [--hashes 1000000] [--pairs 20000] [--rounds 3]

Random 64-bit hashes, a tenth of them a few bits from another one. Both searches run in turns on the
same `--pairs` hashes and must find the same pairs; then the search alone runs on `--hashes`.
"""

import argparse
import statistics
import time

import numpy as np
from numpy.typing import NDArray

from pipeline.operations.near_hashes import leaders, near_pairs

DISTANCES = (3, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    for distance in DISTANCES:
        few, ratios = _hashes(asked.pairs), []
        for _ in range(asked.rounds):
            began = time.process_time()
            wanted = _every_pair(few, distance)
            between = time.process_time()
            found = sum(len(first) for first, _, _ in near_pairs(few, distance))
            ratios.append((between - began) / (time.process_time() - between))
            if found != wanted:
                raise SystemExit(f"{found} pairs found, {wanted} are there")
        times = statistics.median(ratios)
        print(
            f"within {distance} bits: {asked.pairs} hashes {times:.1f} times as fast as every pair"
            f" ({min(ratios):.1f} to {max(ratios):.1f}), {found} pairs"
        )
        many = _hashes(asked.hashes)
        began = time.process_time()
        leaders(many, distance)
        print(f"  {len(many)} hashes: {time.process_time() - began:.1f} s of CPU time")


def _hashes(count: int) -> NDArray[np.uint64]:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 64, count, np.uint64, endpoint=False)
    near = count // 10
    copies = values[near : 2 * near].copy()
    for _ in range(4):
        copies ^= np.uint64(1) << rng.integers(0, 64, near, np.uint64)
    values[:near] = copies
    return rng.permutation(np.unique(values))


def _every_pair(hashes: NDArray[np.uint64], distance: int) -> int:
    """Return the number of pairs within a distance."""
    return sum(
        int((np.bitwise_count(hashes[n + 1 :] ^ value) <= distance).sum())
        for n, value in enumerate(hashes)
    )


if __name__ == "__main__":
    main()
