"""CPU time of training clips, and the number of loaders that a GPU needs.

    python -m benchmarks.loaders [--videos FOLDER] [--turns 3] [--clips 96]

A loader is one process of `TrainingClips` with its decoder. The clock is the CPU time of both, user
and system, without their start: so the rates are those of a loader with a core of its own.
"""

import argparse
import math
import statistics
from contextlib import closing
from pathlib import Path

import psutil
import torch

from pipeline.training.clip_config import ClipSourceConfig
from pipeline.training.clips import TrainingClips

DATA = Path(__file__).parents[1] / "tests" / "data" / "videos"
SIZES = ((17, 128, 128), (17, 256, 256), (33, 256, 256))
GPU_RATES = (2, 5, 10, 20, 40)
"""Clips per second that a GPU trains on."""


def cpu_s() -> float:
    """Return the CPU time of this process and of its decoder, which is not waited for."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(sum(t[:4]) for t in times)  # with children that have ended


def seconds_per_clip(videos: str, size: tuple[int, int, int], count: int) -> float:
    frames, height, width = size
    config = ClipSourceConfig(
        uri=[videos], exclude=["*/broken/*"], frames=frames, height=height, width=width
    )
    with closing(TrainingClips(config, 1)) as clips:
        next(clips)
        begun = cpu_s()
        for _ in range(count):
            next(clips)
        return (cpu_s() - begun) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", default=str(DATA))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--clips", type=int, default=96)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # as in a loader
    costs: dict[tuple[int, int, int], list[float]] = {size: [] for size in SIZES}
    for _ in range(asked.turns):
        for size in SIZES:
            costs[size].append(seconds_per_clip(asked.videos, size, asked.clips))
    heads = [f"{rate} clips/s" for rate in GPU_RATES]
    print("| clip | CPU ms per clip | clips/s of a loader |", " | ".join(heads), "|")
    print("| --- |" + " ---: |" * (2 + len(heads)))
    for size, found in costs.items():
        cost = statistics.median(found)
        shown = f"{cost * 1e3:.0f} ({min(found) * 1e3:.0f} to {max(found) * 1e3:.0f})"
        loaders = " | ".join(str(math.ceil(rate * cost)) for rate in GPU_RATES)
        print(f"| {'×'.join(map(str, size))} | {shown} | {1 / cost:.1f} | {loaders} |")


if __name__ == "__main__":
    main()
