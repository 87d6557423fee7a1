"""Cost of a work unit in a whole job over Ray, and growth of the driver with their number.

    python -m benchmarks.many_units [--units 300 1200 4800] [--bare]

Each unit is one row of a list that names one small image, so decoding and tokenizing cost almost
nothing. The rest is planning, Ray's rows and references, commits and the log. Jobs run one after
another in one cluster. The driver's memory and the CPU time of all processes are read every
two seconds.

`--bare` also runs Ray Data alone: as many blocks of one row through two pools of one actor each,
two rows out of each, with nothing of this package in it. Its rate is the most that one task for
each unit could reach.
"""

import argparse
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from PIL import Image
from rich.console import Console

from pipeline.config.job import JobConfig
from pipeline.job.driver import run
from pipeline.job.progress import ConsoleProgress

_SIDE = 16
_EVERY_S = 2.0


def main() -> None:
    """Print two tables: a row for each number of units, and the CPU time by process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, nargs="+", default=[300, 1200, 4800])
    parser.add_argument("--bare", action="store_true")
    arguments = parser.parse_args()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    print("| job | units | s | units/s | driver before, MiB | driver's peak, MiB | CPU ms a unit |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    costs, ratios = {}, []
    for units in arguments.units:
        with tempfile.TemporaryDirectory() as folder:
            config = job(Path(folder), units)
            with Watch() as watch:
                summary = run(config, ConsoleProgress(Console(quiet=True)))
        assert summary.exit_code == 0, summary.lines()
        assert summary.total.units == units
        costs[f"{units:,} units"] = watch.row("whole job", units)
        if arguments.bare:
            with Watch() as alone:
                assert bare(units) == 2 * units
            costs[f"{units:,} blocks of bare Ray Data"] = alone.row("bare Ray Data", units)
            ratios.append(f"{units:,} units: {alone.seconds / watch.seconds:.2f} of bare Ray Data")
    kinds = sorted({kind for cost in costs.values() for kind in cost})
    print(f"\n| CPU ms a unit | {' | '.join(kinds)} |")
    print(f"| --- |{' ---: |' * len(kinds)}")
    for name, cost in costs.items():
        print(f"| {name} | {' | '.join(f'{cost[kind]:.1f}' for kind in kinds)} |")
    print("", *ratios, sep="\n")


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


class _Two:
    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield batch
        yield batch


class _Same:
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return batch


def bare(blocks: int) -> int:
    """Run blocks of one row through Ray Data; return how many came out."""
    context = ray.data.DataContext.get_current().copy()
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context):
        dataset = ray.data.from_items(
            [{"unit": str(n)} for n in range(blocks)], override_num_blocks=blocks
        )
        for worker in (_Two, _Same):
            dataset = dataset.map_batches(
                worker,
                batch_size=1,
                num_cpus=0.5,
                compute=ray.data.ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=2),
            )
    return sum(len(bundle.blocks) for bundle in dataset.iter_internal_ref_bundles())


class Watch:
    """Reads this process's memory, and the CPU time of it and its children, during a `with`."""

    def __enter__(self) -> "Watch":
        self._me = psutil.Process()
        self._over = threading.Event()
        self._cpu: dict[tuple[int, str], float] = {}
        self.before = self.peak = self._me.memory_info().rss
        self._read()
        self._started = dict(self._cpu)
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began
        self._read()
        self._over.set()
        self._thread.join()

    def row(self, name: str, units: int) -> Counter[str]:
        """Print a row of the first table; return the CPU milliseconds a unit by kind of process."""
        cost: Counter[str] = Counter()
        for key, seconds in self._cpu.items():
            cost[key[1]] += 1000 * (seconds - self._started.get(key, 0.0)) / units  # type: ignore
        memory = f"{self.before >> 20:,} | {self.peak >> 20:,}"
        rate = f"{self.seconds:.0f} | {units / self.seconds:.1f}"
        print(f"| {name} | {units:,} | {rate} | {memory} | {cost.total():.1f} |", flush=True)
        return cost

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_S):
            self._read()

    def _read(self) -> None:
        self.peak = max(self.peak, self._me.memory_info().rss)
        for process in [self._me, *self._me.children(recursive=True)]:
            try:
                times, kind = process.cpu_times(), self._kind(process)
            except psutil.Error:
                continue
            # A worker of Ray changes its name with its task: the last name counts.
            known = next((key for key in self._cpu if key[0] == process.pid), None)
            key = known if known and kind == "other" else (process.pid, kind)
            if known and known != key:
                del self._cpu[known]
            self._cpu[key] = times.user + times.system

    def _kind(self, process: psutil.Process) -> str:
        if process == self._me:
            return "driver"
        line = " ".join(process.cmdline())
        for word, kind in _KINDS.items():
            if re.search(word, line):
                return kind
        return "other"


_KINDS = {
    "gcs_server": "gcs",
    "raylet/raylet": "raylet",
    "ray::.*Decode|ray::.*_Two": "decode",
    "ray::.*Tokenize|ray::.*_Same": "tokenize",
    "ray::.*commit": "commit",
    "ray::.*Desk": "desk",
    "agent|log_monitor": "agents",
    "decode.child|fork_server|multiprocessing": "decoder child",
}


if __name__ == "__main__":
    main()
