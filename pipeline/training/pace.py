"""Speed of a training, and which side waits: the network or its data."""

import resource
import sys
import time
from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

PACE: Final = ("step_s", "data_wait_s", "clips_per_s", "memory_gib")
"""Names of what `Pace.line` returns."""


class Pace:
    """Clock of the batches of one log line. It never waits for a GPU.

    The time of a line is that of the host. Its means follow the GPU, because the host can only run
    a few batches ahead, and every line waits for the values that it shows.

    Args:
        clips: batches, each of which starts the clock.
        clips_per_step: number of clips in a step, on all ranks together.
        device: device of the training, for its memory.
    """

    def __init__(self, clips: Iterator[Tensor], clips_per_step: int, device: str) -> None:
        self._clips = clips
        self._clips_per_step = clips_per_step
        self._cuda = device.startswith("cuda")
        self._begin()

    def _begin(self) -> None:
        self._steps, self._waited, self._ran = 0, 0.0, 0.0
        self._since: float | None = None

    def __next__(self) -> Tensor:
        """Return the next batch."""
        begun = time.perf_counter()
        if self._since is None:
            self._since = begun
        batch = next(self._clips)
        self._waited += time.perf_counter() - begun
        self._steps += 1
        return batch

    def pause(self) -> None:
        """Stop the clock until the next batch: a measurement or a checkpoint follows."""
        if self._since is not None:
            self._ran += time.perf_counter() - self._since
            self._since = None

    def line(self) -> dict[str, float]:
        """Return the means per step since the last line.

        `step_s` and `data_wait_s` in seconds, `clips_per_s` of all ranks, `memory_gib`: the peak of
        the GPU's memory, or of the process's.
        """
        self.pause()
        steps, ran = max(1, self._steps), max(1e-9, self._ran)
        memory = torch.cuda.max_memory_allocated() if self._cuda else _peak_bytes()
        values = (
            ran / steps,
            self._waited / steps,
            self._clips_per_step * steps / ran,
            memory / 2**30,
        )
        self._begin()
        return dict(zip(PACE, values, strict=True))


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def told(line: dict[str, float]) -> str:
    """Return the speed for a line of progress."""
    waits = 100 * line["data_wait_s"] / line["step_s"]
    return (
        f"{line['step_s']:.3g} s/batch  {line['clips_per_s']:.3g} clips/s  waits for data"
        f" {waits:.0f} %  {line['memory_gib']:.3g} GiB"
    )
