"""Clips per second of the tokenize stage on a pretended GPU, with and without overlap.

    python -m benchmarks.overlap [--rows 24] [--rounds 3] [--clips-per-second 72]

The pretended GPU computes by sleeping, one batch after another, and copies at 20 GB/s beside that.
All else is real: frames into buffers, cells, rows, Arrow bytes with zstd. A row has 16 clips of
17×256×256 in two batches, and its latents are noise. Three ways take turns: one row at a time and
nothing queued ahead; one row and one batch ahead; two rows at a time. No GPU takes part, so the
figures say what the host costs, and not how fast a GPU is.
"""

import argparse
import queue
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.dataset.schema import TokenizerColumn
from pipeline.records import Bucket, Clip
from pipeline.stages.messages import BatchHeader, BatchRow
from pipeline.stages.tokenize import TokenizeStage
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.lanes import StreamedLane, Wait
from pipeline.tokenizers.protocol import Encoded

CLIPS, BATCH, FRAMES, SIDE = 16, 8, 17, 256
LATENT = (8, 5, SIDE // 8, SIDE // 8)
COLUMN = TokenizerColumn(
    name="kl",
    kind="latents",
    dtype="float16",
    axes=("c", "t", "h", "w"),
    model="pretended",
    fingerprint="0" * 32,
)
_COPIED_BYTES_PER_S = 20e9


class PretendedGpu:
    """`Streams` and the network in one: it keeps the times of a GPU, and its tensors are empty."""

    def __init__(self, clips_per_second: float) -> None:
        self._clip_s = 1 / clips_per_second
        self._copying, self._computing = _worker(), _worker()
        rng = np.random.default_rng(0)
        self._latents = torch.from_numpy(rng.standard_normal((BATCH, *LATENT), np.float32)).half()

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def upload(self, host: Tensor) -> tuple[Tensor, Wait]:
        copied = threading.Event()
        self._copying.put(lambda: time.sleep(host.nbytes / _COPIED_BYTES_PER_S))
        self._copying.put(copied.set)
        self._computing.put(copied.wait)
        return host.to("meta"), copied.wait

    def encode(self, video: Tensor) -> Encoded:
        self._computing.put(lambda: time.sleep(self._clip_s * len(video)))
        mean = torch.empty((len(video), *LATENT), device="meta")
        return Encoded(mean, mean=mean)

    def download(self, made: Sequence[Tensor]) -> tuple[list[Tensor], Wait]:
        done = threading.Event()
        self._computing.put(done.set)
        finite, mean = made
        return [torch.ones(finite.shape, dtype=torch.bool), self._latents[: len(mean)]], done.wait


def _worker() -> "queue.SimpleQueue[Callable[[], object]]":
    """Start a thread that does one thing after another; return its queue."""
    works: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def run() -> None:
        while True:
            works.get()()

    threading.Thread(target=run, daemon=True).start()
    return works


def _row(number: int, frames: np.ndarray) -> BatchRow:
    clip = Clip(
        unit="u",
        key=f"video {number}",
        clip_index=0,
        start_s=0.0,
        end_s=2.0,
        source_fps=8.0,
        source_height=SIDE,
        source_width=SIDE,
        crop=(0.0, 0.0, float(SIDE), float(SIDE)),
        num_frames=FRAMES,
    )
    clips = tuple(replace(clip, clip_index=n) for n in range(CLIPS))
    bucket = Bucket(frames=FRAMES, height=SIDE, width=SIDE)
    return BatchRow(BatchHeader(unit="u", seq=number, bucket=bucket, clips=clips), frames)


def _rate(gpu: PretendedGpu, rows: list[BatchRow], ahead: int, calls: int) -> float:
    """Return the clips per second of all rows."""
    lane = StreamedLane(gpu)
    lane.ahead = ahead
    stage = TokenizeStage([ClipEncoder(gpu, COLUMN, batch=BATCH, lane=lane)])  # type: ignore[arg-type]
    with ThreadPoolExecutor(calls) as pool:
        list(pool.map(stage, rows[:2]))  # buffers are made
        began = time.monotonic()
        for payload in pool.map(stage, rows):
            assert not payload.header.quarantined
        return len(rows) * CLIPS / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips-per-second", type=float, default=72)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    gpu = PretendedGpu(asked.clips_per_second)
    shape = (CLIPS, FRAMES, SIDE, SIDE, 3)
    frames = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    rows = [_row(number, frames) for number in range(asked.rows)]
    ways = {"no overlap": (0, 1), "batches overlap": (1, 1), "batches and rows overlap": (1, 2)}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(asked.rounds):
        for name, (ahead, calls) in ways.items():
            found[name].append(_rate(gpu, rows, ahead, calls))
    print("| | clips/s, median (range) | share of the device's own rate |")
    print("| --- | ---: | ---: |")
    for name, rates in found.items():
        middle = statistics.median(rates)
        print(
            f"| {name} | {middle:.1f} ({min(rates):.1f} to {max(rates):.1f}) |"
            f" {middle / asked.clips_per_second:.0%} |"
        )


if __name__ == "__main__":
    main()
