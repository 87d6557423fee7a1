"""Options of TokenDataset compared with reading whole clips without any.

    python -m benchmarks.reading_options [--clips 4000] [--rounds 5] [--batch 32]

Reads a dataset of random tokens (FSQ of 17×256×256 clips, ten clips a sample) in this process, in
turns: plain, one side of a split, first frames, sequences, and a mix of the dataset with itself.
Files are in the page cache. To open a split or sequences reads a few columns of all rows; that is
timed apart.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from benchmarks.joining import make_dataset
from benchmarks.reading import FSQ
from pipeline.reading import TokenDataset, mix

_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "split=train, holdout=0.01": {"split": "train", "holdout": 0.01},
    "frames=9": {"frames": 9},
    "sequence=5": {"sequence": 5},
    "mix with itself": {},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        snapshot = make_dataset(folder, [FSQ], asked.clips, 0)
        opened: dict[str, list[float]] = {name: [] for name in _OPTIONS}
        worked: dict[str, list[float]] = {name: [] for name in _OPTIONS}
        for _ in range(asked.rounds):
            for name, options in _OPTIONS.items():
                start = time.process_time()
                batch = asked.batch // options.get("sequence", 1)
                data = TokenDataset(snapshot, ["fsq"], batch, **options)
                opened[name].append((time.process_time() - start) / asked.clips)
                read: Callable[[], Iterator[dict[str, Any]]] = data.__iter__
                if name.startswith("mix"):
                    twins = [TokenDataset(snapshot, ["fsq"], batch, seed=n) for n in (0, 1)]
                    read = lambda: islice(mix(twins, [1, 1]), 2 * len(data))  # noqa: B023, E731
                start = time.process_time()
                clips = sum(rows["fsq"].flatten(0, -4).shape[0] for rows in read())
                worked[name].append((time.process_time() - start) / clips)
        print("| options | to open, per clip | CPU per clip | CPU of plain reading (range) |")
        print("| --- | ---: | ---: | ---: |")
        for name in _OPTIONS:
            ratios = [a / b for a, b in zip(worked[name], worked["plain"], strict=True)]
            print(
                f"| {name} | {statistics.median(opened[name]) * 1e6:.1f} µs |"
                f" {statistics.median(worked[name]) * 1e6:.0f} µs |"
                f" {statistics.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%}) |"
            )


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
