"""The speed of a line: means over its batches, with the waits that the clock was told of."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from pipeline.training import pace as module
from pipeline.training.pace import PACE, Pace, told


class Clock:
    """A clock that only moves when a test moves it."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def slow_data(clock: Clock, seconds: float) -> Iterator[Tensor]:
    while True:
        clock.now += seconds
        yield torch.zeros(1)


def test_a_line_is_of_its_batches_alone(clock: Clock) -> None:
    pace = Pace(slow_data(clock, 0.75), 6, "cpu")
    for _ in range(4):
        next(pace)
        clock.now += 2.25
    pace.pause()
    clock.now += 100  # a checkpoint
    for _ in range(4):
        next(pace)
        clock.now += 2.25
    line = pace.line()
    assert tuple(line) == PACE
    assert line["step_s"] == pytest.approx(3)
    assert line["data_wait_s"] == pytest.approx(0.75)
    assert line["clips_per_s"] == pytest.approx(2)
    assert 0.01 < line["memory_gib"] < 100
    assert told(line | {"memory_gib": 1.5}) == "3 s/batch  2 clips/s  waits for data 25 %  1.5 GiB"
    clock.now += 100  # a measurement
    next(pace)
    clock.now += 0.25
    assert pace.line()["step_s"] == pytest.approx(1)
