"""Time that tokenizers wait while decoded clips are ready, and the object store's peak.

    python -m benchmarks.waiting [--copies 60 240 960] [VIDEO]

Runs a whole job for each length of the input, one after another in one cluster. The tokenizer takes
as long as an accelerator with 25 clips per second, and no CPU. It is slower than two decoders, so
clips accumulate unless back-pressure stops the decoders. The waiting time is that of the metric
`vidtok_worker_seconds`, from the first decoded row to the last tokenized one. The second figure
counts only the time in which a decoded row existed that no tokenizer had taken: time lost between
the stages. Ray's use of the object store is read ten times per second.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import ray
from rich.console import Console

from benchmarks.overhead import FPS, FRAMES, SIDE, VIDEO, IdleTokenizer
from pipeline.config.job import JobConfig
from pipeline.job import graph
from pipeline.job.driver import run
from pipeline.job.metrics import ray_metrics as ray_recorder
from pipeline.job.metrics.metrics import DECODE, ROWS, TOKENIZE, WORKER_SECONDS, Metric, Recorder
from pipeline.job.metrics.worker_clock import WAITING
from pipeline.job.progress import ConsoleProgress
from pipeline.job.workers import RayBatch, WorkerSettings
from pipeline.stages.messages import BATCH

_CLIP_S = 0.04
_STORE_BYTES = 300_000_000


class SlowTokenizer(IdleTokenizer):
    """Sleeps for each clip as long as an accelerator would compute, one call after another."""

    def __init__(self, settings: WorkerSettings, recorder: Recorder) -> None:
        super().__init__(settings, recorder)
        self._accelerator = threading.Lock()

    def _payload_row(self, batch: RayBatch) -> pa.Table:
        if batch["kind"][0] == BATCH:
            with self._accelerator:
                time.sleep(_CLIP_S * len(batch["frames"][0]))
        return super()._payload_row(batch)


@dataclass(frozen=True, slots=True)
class Timeline:
    """A `Recorder` that writes the times of rows and of waiting tokenizers to files."""

    folder: str
    """Folder with one file per process. All processes share the machine's clock."""

    def add(self, metric: Metric, value: float, **labels: str) -> None:
        if metric not in (ROWS, WORKER_SECONDS):
            return
        with open(f"{self.folder}/{os.getpid()}", "a") as file:
            file.write(json.dumps([time.monotonic(), metric.name, value, labels]) + "\n")

    def set(self, metric: Metric, value: float, **labels: str) -> None: ...


def waited(events: list[tuple[float, str, float, dict[str, str]]]) -> tuple[float, float]:
    """Return the fractions of time that one tokenizer waited: in all, and while rows were ready.

    Args:
        events: time, name of the metric, value and labels of each recorded value.
    """
    made = sorted(t for t, name, _, by in events if (name, by["stage"]) == (ROWS.name, DECODE))
    done = sorted(t for t, name, _, by in events if (name, by["stage"]) == (ROWS.name, TOKENIZE))
    first, last = made[0], done[-1]
    # A waiting tokenizer holds no row, so every row that is decoded and not tokenized is ready.
    changes = sorted([*((t, 1) for t in made), *((t, -1) for t in done)])
    ready: list[tuple[float, float]] = []
    rows = 0
    for (at, change), (until, _) in zip(changes, [*changes[1:], (last, 0)], strict=True):
        rows += change
        if rows > 0:
            ready.append((at, until))
    whole = while_ready = 0.0
    for end, name, seconds, by in events:
        if (name, by["stage"], by.get("state")) != (WORKER_SECONDS.name, TOKENIZE, WAITING):
            continue
        since, until = max(end - seconds, first), min(end, last)
        whole += max(0.0, until - since)
        while_ready += sum(max(0.0, min(until, b) - max(since, a)) for a, b in ready)
    return whole / (last - first), while_ready / (last - first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", nargs="?", type=Path, default=VIDEO)
    parser.add_argument("--copies", nargs="+", type=int, default=[60, 240, 960])
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    graph.TokenizeWorker = SlowTokenizer  # type: ignore[attr-defined]
    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=1,  # unused; with it Ray feeds the actor like one on a GPU
        object_store_memory=_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    print(
        "| videos | clips | decoded, MB | clips/s | waited | waited while clips were ready |"
        " object store's peak, MB |"
    )
    print("| ---: " * 7 + "|")
    for copies in asked.copies:
        _one(asked.video, copies)


def _one(video: Path, copies: int) -> None:
    with tempfile.TemporaryDirectory() as folder, _store_watched() as used:
        videos, times = Path(folder) / "videos", Path(folder) / "times"
        videos.mkdir()
        times.mkdir()
        for n in range(copies):
            (videos / f"{n:05}{video.suffix}").symlink_to(video.resolve())
        ray_recorder.RayRecorder = lambda run: Timeline(str(times))  # type: ignore
        config = JobConfig.model_validate(
            {
                "source": {"uri": str(videos), "files_per_unit": 8},
                "clip": {"frames": FRAMES, "height": SIDE, "width": SIDE, "fps": FPS},
                "tokenizers": [
                    {"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny", "batch": 8}
                ],
                "output": {"uri": str(Path(folder) / "out")},
                "decode": {"actors": 2},
                "tokenize": {"actors": 1},
            }
        )
        summary = run(config, ConsoleProgress(Console(quiet=True)))
        assert summary.exit_code == 0, summary.lines()
        lines = [line for path in times.iterdir() for line in path.read_text().splitlines()]
    events = [tuple(json.loads(line)) for line in lines]
    rows = sorted(t for t, name, *_ in events if name == ROWS.name)
    whole, while_ready = waited(events)
    clips = summary.done.counts.clips_written
    decoded = clips * FRAMES * SIDE * SIDE * 3 / 1e6
    print(
        f"| {copies} | {clips} | {decoded:,.0f} | {clips / (rows[-1] - rows[0]):.1f} |"
        f" {whole:.1%} | {while_ready:.1%} | {max(used) / 1e6:.0f} |",
        flush=True,
    )


@contextmanager
def _store_watched() -> Iterator[list[float]]:
    """Yield a list to which bytes used in the object store are appended."""
    whole = ray.cluster_resources()["object_store_memory"]
    used = [0.0]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            used.append(whole - ray.available_resources().get("object_store_memory", 0.0))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield used
    finally:
        over.set()
        thread.join()


if __name__ == "__main__":
    main()
