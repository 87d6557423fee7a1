"""Progress tells rate and time left, and writes plain lines where nobody watches."""

import io

import pytest
from rich.console import Console

from pipeline.job import progress
from pipeline.job.progress import ConsoleProgress, Meter


def test_rate_and_time_left() -> None:
    meter = Meter(units=10, now=100.0)
    assert meter.line(100.0) == "0/10 units · 0 clips · 0.0 clips/s · 0:00:00 · left ?"
    meter.num_clips, meter.done = 50, 2
    assert meter.line(120.0) == "2/10 units · 50 clips · 2.5 clips/s · 0:00:20 · left 0:01:20"
    meter.failed = 1
    assert "1 put back" in meter.line(121.0)


def test_the_rate_is_that_of_the_last_minute() -> None:
    meter = Meter(units=10, now=0.0)
    for second in range(600):
        meter.num_clips += 100 if second < 300 else 1
        line = meter.line(float(second + 1))
    assert "· 1.0 clips/s" in line
    assert len(meter._marks) < 70


def test_a_log_gets_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    shown = ConsoleProgress(Console(file=out), every_s=10.0)
    shown.begin(2)
    for second in range(1, 26):
        now[0] = float(second)
        shown.clips(2)
        shown.tick()
    shown.unit(failed=False)
    shown.end()
    lines = out.getvalue().splitlines()
    assert lines == [
        "run        0/2 units · 20 clips · 2.0 clips/s · 0:00:10 · left ?",
        "run        0/2 units · 40 clips · 2.0 clips/s · 0:00:20 · left ?",
    ]
    assert "\r" not in out.getvalue()


def test_brackets_in_a_message_are_no_markup() -> None:
    out = io.StringIO()
    ConsoleProgress(Console(file=out)).say("put back   u: [red] means [/nothing]")
    assert out.getvalue() == "put back   u: [red] means [/nothing]\n"
