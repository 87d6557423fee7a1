"""Cost of a work unit in a whole job over Ray, and growth of the driver with their number.

    python -m benchmarks.many_units [--units 300 1200 4800]

Each unit is one row of a list that names one small image, so decoding and tokenizing cost almost
nothing. The rest is planning, Ray's rows and references, commits and the log. Jobs run one after
another in one cluster. The driver's memory is read ten times a second.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import ray
from PIL import Image
from rich.console import Console

from pipeline.config.job import JobConfig
from pipeline.job.driver import run
from pipeline.job.progress import ConsoleProgress

_SIDE = 16


def main() -> None:
    """Print a table, one row for each number of units."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[300, 1200, 4800])
    numbers = parser.parse_args().units
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    print("| units | seconds | units/s | driver before, MiB | driver's peak, MiB |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for units in numbers:
        with tempfile.TemporaryDirectory() as folder:
            config = job(Path(folder), units)
            began = time.monotonic()
            with peak_memory() as memory:
                summary = run(config, ConsoleProgress(Console(quiet=True)))
            seconds = time.monotonic() - began
        assert summary.exit_code == 0, summary.lines()
        assert summary.total.units == units
        before, peak = (value >> 20 for value in memory)
        print(f"| {units:,} | {seconds:.0f} | {units / seconds:.1f} | {before:,} | {peak:,} |")


def job(folder: Path, units: int) -> JobConfig:
    """Return a job with a number of units."""
    Image.new("RGB", (_SIDE, _SIDE), "red").save(folder / "red.png")
    (folder / "list.csv").write_text("video\n" + "red.png\n" * units)
    return JobConfig.model_validate(
        {
            "source": {"uri": [str(folder / "list.csv")], "lists": {"rows_per_unit": 1}},
            "clip": {"frames": 1, "height": _SIDE, "width": _SIDE},
            "tokenizers": [{"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"}],
            "output": {"uri": str(folder / "out")},
        }
    )


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yield a list of this process's resident bytes: now and, at the end, their maximum."""
    process = psutil.Process()
    seen = [process.memory_info().rss] * 2
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            seen[1] = max(seen[1], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
