"""Progress shows rate and time left, and writes plain lines where there is no terminal."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from pipeline.job import progress
from pipeline.job.progress import ConsoleProgress, seconds_left


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    return clock


def lines_of(out: io.StringIO) -> list[str]:
    return out.getvalue().splitlines()


def test_the_time_left_follows_from_the_average_pace() -> None:
    assert seconds_left(20.0, 0, 10) is None
    assert seconds_left(20.0, 2, 10) == 80.0
    assert seconds_left(20.0, 10, 10) == 0.0


def test_a_log_gets_a_plain_line_now_and_then(now: list[float]) -> None:
    out = io.StringIO()
    shown = ConsoleProgress(Console(file=out), every_s=10.0)
    shown.begin(2)
    for second in range(1, 26):
        now[0] = float(second)
        shown.clips(2)
        shown.tick()
        if second == 15:
            shown.unit(failed=False)
            shown.unit(failed=True)
    shown.end()
    shown.tick()
    assert lines_of(out) == [
        "run        0/2 units · 20 clips · 2.0 clips/s · 10.0 s elapsed",
        "run        1/2 units · 40 clips · 2.0 clips/s · 1 failed · 20.0 s elapsed · 20.0 s left",
    ]
    assert "\r" not in out.getvalue()


def test_until_the_first_clips_it_says_that_workers_start(now: list[float]) -> None:
    out = io.StringIO()
    shown = ConsoleProgress(Console(file=out), every_s=10.0)
    shown.begin(1)
    for second in (10, 20):
        now[0] = float(second)
        shown.tick()
        shown.unit(failed=True)
        shown.clips(1 if second == 20 else 0)
    now[0] = 30.0
    shown.tick()
    assert lines_of(out) == [
        "run        1 unit · starting, no clips yet · 10.0 s elapsed",
        "run        1 unit · starting, no clips yet · 1 failed · 20.0 s elapsed",
        "run        0/1 unit · 1 clip · 0.0 clips/s · 2 failed · 30.0 s elapsed",
    ]


def test_the_rate_is_that_of_the_last_minute(now: list[float]) -> None:
    out = io.StringIO()
    shown = ConsoleProgress(Console(file=out), every_s=60.0)
    shown.begin(10)
    for second in range(1, 601):
        now[0] = float(second)
        shown.clips(100 if second <= 300 else 1)
        shown.tick()
    assert "· 100.0 clips/s" in lines_of(out)[4]
    assert "· 1.0 clips/s" in lines_of(out)[-1]
    for second in range(601, 781):
        now[0] = float(second)
        shown.tick()
    assert "· 0.0 clips/s" in lines_of(out)[-1]
    shown.end()


def test_a_terminal_gets_a_bar_and_keeps_what_was_said(now: list[float]) -> None:
    out = io.StringIO()
    shown = ConsoleProgress(Console(file=out, force_terminal=True, width=120))
    shown.begin(2)
    shown.clips(3)
    now[0] = 1.0
    shown.tick()
    shown.say("attempt    u: 1 of 3 failed: reason")
    shown.end()
    assert "━" in out.getvalue()
    assert "0/2 units · 3 clips · 3.0 clips/s" in out.getvalue()
    assert "attempt    u: 1 of 3 failed: reason" in out.getvalue()


def test_hidden_characters_are_shown() -> None:
    out = io.StringIO()
    ConsoleProgress(Console(file=out)).say("attempt    u: \x1b[2J\u202e日")
    assert out.getvalue() == "attempt    u: \\x1b[2J\\u202e日\n"


def test_brackets_in_a_message_are_not_markup() -> None:
    out = io.StringIO()
    ConsoleProgress(Console(file=out)).say("attempt    u: [red] means [/nothing]")
    assert out.getvalue() == "attempt    u: [red] means [/nothing]\n"
