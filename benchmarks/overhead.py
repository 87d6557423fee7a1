"""The whole pipeline with a tokenizer that does nothing, beside a bare loop of PyAV.

    python -m benchmarks.overhead [--copies 240] [--processes 2] [--rounds 3] [VIDEO]

It measures the cost of the pipeline itself: Ray, decoder processes, rows, object store and commits.
The bare loop opens each file, decodes every frame, scales the frames of the clips with swscale to
the clip's size and stacks them. It checks nothing and writes nothing. Both decode in turns, in the
same number of processes with one thread each. The pipeline's rate is taken from its first row to
its last, so starting Ray and importing torch does not count; that time is printed beside it. It
needs no GPU.
"""

import argparse
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import ray
from numpy.typing import NDArray

from pipeline.config.job import JobConfig
from pipeline.dataset.schema import TokenizerColumn
from pipeline.decode.pixels.geometry import fit_frame
from pipeline.job import graph
from pipeline.job.driver import run
from pipeline.job.metrics.metrics import TOKENIZE, Recorder
from pipeline.job.metrics.worker_clock import WorkerClock
from pipeline.job.workers import TokenizeWorker, WorkerSettings
from pipeline.stages.tokenize import TokenizeStage

FRAMES, SIDE, FPS = 17, 128, 8.0
VIDEO = Path(__file__).parents[1] / "tests/data/videos/bikes.mp4"


class _Nothing:
    """Encodes any clip to one zero."""

    def __init__(self, column: TokenizerColumn) -> None:
        self.column = column

    def __call__(
        self, frames: NDArray[Any], where: str = ""
    ) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
        shape = (len(frames), *[1] * len(self.column.axes))
        cells = {
            name: np.zeros(shape, self.column.stored_dtype) for name in self.column.cell_columns
        }
        return cells, np.ones(len(frames), bool)


class IdleTokenizer(TokenizeWorker):
    """Takes rows as the real one does, and has no model."""

    def __init__(self, settings: WorkerSettings, recorder: Recorder) -> None:
        self.stage = TokenizeStage([_Nothing(column) for column in settings.columns])  # type: ignore[misc]
        self.broken = False
        self._recorder = recorder
        self._clock = WorkerClock(TOKENIZE, recorder)


@dataclass(slots=True)
class Watch:
    """A `Progress` that notes when clips came, and what the processes had worked by then."""

    first: tuple[float, float] | None = None
    last: tuple[float, float] = (0.0, 0.0)
    before: int = 0
    count: int = 0
    worked: dict[int, float] = field(default_factory=dict)
    """Process → CPU seconds when it was last seen; actors end before the last row is told."""

    def clips(self, count: int) -> None:
        self.count += count
        self.worked.update(_cpu_seconds())
        self.last = time.monotonic(), sum(self.worked.values())
        if self.first is None:
            self.first, self.before = self.last, self.count

    def say(self, text: str) -> None: ...
    def begin(self, units: int) -> None: ...
    def unit(self, *, failed: bool) -> None: ...
    def tick(self) -> None: ...
    def end(self) -> None: ...


def _cpu_seconds() -> dict[int, float]:
    """Return what this process and all below it have worked so far."""
    found = {}
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid] = times.user + times.system
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video", nargs="?", type=Path, default=VIDEO)
    parser.add_argument("--copies", type=int, default=240)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    graph.TokenizeWorker = IdleTokenizer  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        for n in range(asked.copies):
            (Path(folder) / f"{n:04}{asked.video.suffix}").symlink_to(asked.video.resolve())
        _compare(Path(folder), asked.processes, asked.rounds)


def _compare(folder: Path, processes: int, rounds: int) -> None:
    ray.init(
        address="local",
        num_cpus=processes + 2,
        object_store_memory=300_000_000,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    bare, ours = [], []
    print(
        "| round | bare loop | pipeline | ratio | CPU per clip: bare, pipeline | first row after |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for number in range(1, rounds + 1):
        bare.append(_bare(folder, processes))
        ours.append(_ours(folder, processes))
        (rate, cpu), (mine, my_cpu, start) = bare[-1], ours[-1]
        print(
            f"| {number} | {rate:.1f} clips/s | {mine:.1f} clips/s | {mine / rate:.0%} |"
            f" {cpu * 1000:.0f} ms, {my_cpu * 1000:.0f} ms | {start:.1f} s |",
            flush=True,
        )
    ratio = statistics.median(m[0] / b[0] for m, b in zip(ours, bare, strict=True))
    print(f"median {ratio:.0%}")


def _bare(folder: Path, processes: int) -> tuple[float, float]:
    """Return clips per second, and CPU seconds per clip."""
    paths = sorted(map(str, folder.iterdir()))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_bare_loop, paths[:processes]))  # imports are not counted
        began = time.monotonic()
        found = list(pool.map(_bare_loop, paths, chunksize=4))
        seconds = time.monotonic() - began
    clips = sum(clips for clips, _ in found)
    return clips / seconds, sum(cpu for _, cpu in found) / clips


def _bare_loop(path: str) -> tuple[int, float]:
    """Decode a file into clips; return how many, and the CPU seconds that it took."""
    began = time.process_time()
    clips: list[NDArray[np.uint8]] = []
    kept: list[NDArray[np.uint8]] = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        place = fit_frame((stream.height, stream.width), (SIDE, SIDE), whole=False)
        top = (place.resized_height - SIDE) // 2
        left = (place.resized_width - SIDE) // 2
        due = 0.0
        for frame in container.decode(stream):
            if frame.time is None or frame.time < due:
                continue
            due += 1 / FPS
            picture = frame.to_ndarray(
                format="rgb24", width=place.resized_width, height=place.resized_height
            )
            kept.append(picture[top : top + SIDE, left : left + SIDE])
            if len(kept) == FRAMES:
                clips.append(np.stack(kept))
                kept = []
    return len(clips), time.process_time() - began


def _ours(folder: Path, processes: int) -> tuple[float, float, float]:
    """Return clips per second, CPU seconds per clip, and seconds until the first row."""
    with tempfile.TemporaryDirectory() as output:
        config = JobConfig.model_validate(
            {
                "source": {"uri": str(folder), "files_per_unit": 8},
                "clip": {"frames": FRAMES, "height": SIDE, "width": SIDE, "fps": FPS},
                "tokenizers": [
                    {"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny", "batch": 8}
                ],
                "output": {"uri": output},
                "decode": {"actors": processes},
                "tokenize": {"actors": 1},
            }
        )
        watch, began = Watch(), time.monotonic()
        summary = run(config, watch)
        assert summary.exit_code == 0, summary.lines()
    assert watch.first is not None
    clips = watch.count - watch.before
    seconds = watch.last[0] - watch.first[0]
    return clips / seconds, (watch.last[1] - watch.first[1]) / clips, watch.first[0] - began


if __name__ == "__main__":
    main()
