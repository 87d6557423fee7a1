"""From the command to the first commit: where a job's start goes.

    python -m benchmarks.start [--rounds 3] [--baseline TREE] [KEY=VALUE]…

Each round runs `jobs/tokenize_corpus.py pipeline/demo/job.yaml` into a new folder, up to the first
unit that is committed, and then interrupts it. It prints when each mark was first reached, in
seconds from the start of the process, and the CPU seconds of all processes until the first commit.
With another tree the two alternate. Linux only.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks import start_probe

HERE = Path(__file__).parents[1]
VIDEOS = HERE / "tests/data/videos/*.mp4"
"""The same paths in both trees: they are part of the names that decide which clips are drawn."""

ORDER = [
    "Python up",
    "config read",
    "models open",
    "Ray up",
    "graph started",
    "decode actor ready",
    "tokenize actor ready",
    "decoder process ready",
    "first decoded row",
    "first tokenized row",
    "first commit",
    "first record in the log",
]
CPU = "CPU seconds of all processes"

TIMEOUT_S = 120.0


def main() -> None:
    """Print a table with one row for each mark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--baseline", type=Path, help="checkout of another version")
    parser.add_argument("--until", default="first commit", choices=ORDER)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_args()
    trees = [HERE] if args.baseline is None else [args.baseline.resolve(), HERE]
    seen: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
    for _ in range(args.rounds):
        for tree in trees:
            seen[tree].append(start(tree, args.settings, args.until))
    names = ["now"] if args.baseline is None else ["before", "now"]
    print(f"| seconds from the start, median (range) | {' | '.join(names)} |")
    print("| --- |" + " ---: |" * len(names))
    for mark in [*ORDER, CPU]:
        cells = [_cell([run[mark] for run in runs if mark in run]) for runs in seen.values()]
        if any(cells):
            print(f"| {mark} | {' | '.join(cells)} |")


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def start(tree: Path, settings: Sequence[str], until: str) -> dict[str, float]:
    """Run the demo of a tree up to a mark; return the seconds of each mark."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(start_probe.__file__, folder / "sitecustomize.py")
        marks = folder / "marks"
        marks.touch()
        command = [sys.executable, "jobs/tokenize_corpus.py", "pipeline/demo/job.yaml", *settings]
        began = time.monotonic()
        job = subprocess.Popen(
            [*command, f"source.uri={VIDEOS}", f"output.uri={folder / 'out'}"],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": f"{folder}:{tree}", start_probe.FILE: str(marks)},
            stdout=subprocess.DEVNULL,
        )
        cpu: dict[int, float] = {}
        while job.poll() is None and f"\t{until}\n" not in marks.read_text():
            _count_cpu(job.pid, cpu)
            if time.monotonic() - began > TIMEOUT_S:
                break
            time.sleep(0.1)
        _count_cpu(job.pid, cpu)
        reached = marks.read_text()
        job.send_signal(signal.SIGINT)
        job.wait()
    first: dict[str, float] = {}
    for line in reached.splitlines():
        at, _, text = line.split("\t")
        first[text] = min(first.get(text, float("inf")), float(at) - began)
    if until not in first:
        raise SystemExit(f"{tree}: never reached: {until}")
    return first | {CPU: sum(cpu.values())}


def _count_cpu(root: int, cpu: dict[int, float]) -> None:
    with suppress(psutil.NoSuchProcess):
        tree = psutil.Process(root)
        for process in (tree, *tree.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu[process.pid] = times.user + times.system


if __name__ == "__main__":
    main()
