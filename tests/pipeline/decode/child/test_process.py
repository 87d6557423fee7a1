"""Real faults: children killed, stopped, crashed, starved of memory, and orphaned."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline.decode import ClipRule, DecodeLimits, Decoder
from pipeline.decode.child.main import VideoFile
from pipeline.decode.child.process import Child
from pipeline.errors import StoreError
from pipeline.quarantine import QuarantineError
from pipeline.records import Sample
from tests.assets import BIKES, HIKER
from tests.pipeline.decode.synthetic import encode, sample

# Clips of 3 MB fill the socket, so the child is still at work on the video when the first arrives.
RULE = ClipRule(frames=17, height=256, width=256, fps=None, short="drop")
LONG = Sample(key="bikes", video=BIKES.path.read_bytes(), video_name="bikes.mp4")
GOOD = Sample(key="hiker", video=HIKER.path.read_bytes(), video_name="hiker.mp4")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(RULE, DecodeLimits(timeout_s=2)) as decoder:
        yield decoder


def pid_of(decoder: Decoder) -> int:
    assert decoder.pid is not None
    return decoder.pid


def works(decoder: Decoder) -> bool:
    return [frames is None for _, frames in decoder.decode(GOOD, "u")] == [False, False, True]


FAULTS = [
    (signal.SIGKILL, "decode_crash", "SIGKILL"),
    (signal.SIGSEGV, "decode_crash", "SIGSEGV"),
    (signal.SIGALRM, "decode_timeout", "timeout_s = 2"),
    (signal.SIGSTOP, "decode_timeout", "timeout_s = 2"),
]


@pytest.fixture(scope="module")
def undisturbed(decoder: Decoder) -> list[tuple[Any, Any]]:
    return list(decoder.decode(LONG, "u"))


@pytest.mark.parametrize("fault", [fault for fault, _, _ in FAULTS])
def test_a_child_that_dies_or_hangs_once_costs_nothing(
    decoder: Decoder, undisturbed: list[tuple[Any, Any]], fault: signal.Signals
):
    clips = decoder.decode(LONG, "u")
    mine = [next(clips), next(clips)]
    victim = pid_of(decoder)
    os.kill(victim, fault)
    mine += clips
    assert [clip for clip, _ in mine] == [clip for clip, _ in undisturbed]
    for (_, one), (_, other) in zip(mine, undisturbed, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not psutil.pid_exists(victim)


@pytest.mark.parametrize(("fault", "reason", "says"), FAULTS)
def test_a_child_that_dies_or_hangs_again_costs_one_sample(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, fault: signal.Signals, reason: str, says: str
):
    victims = []
    submit = Child.submit

    def submit_and_strike(child: Child, job: dict[str, Any], fd: int) -> None:
        submit(child, job, fd)
        victims.append(child.pid)
        os.kill(child.pid, fault)

    with monkeypatch.context() as patch:
        patch.setattr(Child, "submit", submit_and_strike)
        with pytest.raises(QuarantineError, match=says) as caught:
            list(decoder.decode(LONG, "u"))
    assert (caught.value.stage, caught.value.reason) == ("decode", reason)
    assert caught.value.attempts == len(set(victims)) == 2
    assert not any(psutil.pid_exists(victim) for victim in victims)
    assert works(decoder)


def test_what_ends_a_child_is_logged(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Unit, key, attempt, seconds and cause, once for each child."""
    submit = Child.submit

    def submit_and_strike(child: Child, job: dict[str, Any], fd: int) -> None:
        submit(child, job, fd)
        os.kill(child.pid, signal.SIGSEGV)

    monkeypatch.setattr(Child, "submit", submit_and_strike)
    with pytest.raises(QuarantineError):
        list(decoder.decode(LONG, "a-unit"))
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    for attempt, line in enumerate(lines, 1):
        assert line.startswith(f"a-unit/bikes: attempt {attempt} of 2: the decoder process has")
        assert " s: it died of SIGSEGV" in line
    assert len(lines) == 2


def test_a_child_that_keeps_memory_is_replaced_and_that_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    receive = Child.receive

    def greedy(child: Child, timeout_s: float) -> dict[str, Any]:
        header = receive(child, timeout_s)
        return header | {"grown_mb": 300} if header["kind"] == "end" else header

    monkeypatch.setattr(Child, "receive", greedy)
    caplog.set_level(logging.INFO, logger="pipeline")
    with Decoder(RULE) as decoder:
        assert works(decoder)
        assert decoder.pid is None
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("u/hiker: replacing the decoder process: it keeps 300 MiB")


def test_a_child_that_died_between_samples_is_nobodys_fault(decoder: Decoder):
    assert works(decoder)
    os.kill(pid_of(decoder), signal.SIGKILL)
    time.sleep(0.2)
    assert works(decoder)


def test_a_caller_that_stops_early_leaves_a_usable_decoder(decoder: Decoder):
    clips = decoder.decode(LONG, "u")
    next(clips)
    clips.close()
    assert works(decoder)


def test_a_call_that_was_not_ended_does_not_mix_with_the_next_one(decoder: Decoder):
    """As one that the traceback of an error still holds."""
    left = decoder.decode(LONG, "u")
    next(left)
    clips = decoder.decode(GOOD, "u")
    found = [next(clips)]
    pid = pid_of(decoder)
    left.close()
    found += clips
    assert [frames is None for _, frames in found] == [False, False, True]
    assert {clip.key for clip, _ in found} == {"hiker"}
    assert pid_of(decoder) == pid


def test_a_caller_may_take_its_time(decoder: Decoder):
    """The deadline is the decoder's: two seconds and more between clips are the caller's own."""
    clips = decoder.decode(LONG, "u")
    next(clips)
    time.sleep(2.5)
    assert sum(1 for _ in clips) == 14


@pytest.mark.parametrize("memory_mb", [12, 18])
def test_too_little_memory_is_said_and_survived(memory_mb: int):
    """Wherever it runs out, in the decoder, the scaler or numpy, it is never called damage."""
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920), np.uint8)
    chroma = np.full((540, 960), 128, np.uint8)
    large = sample(
        encode(
            [[noise, chroma, chroma]] * 3,
            pix_fmt="yuv420p",
            codec="libx264",
            container="mp4",
            time_base=Fraction(1, 25),
            options={"preset": "ultrafast"},
        )
    )
    rule = ClipRule(frames=1, height=64, width=64, fps=None, short="drop", resize="float32")
    with Decoder(rule, DecodeLimits(memory_mb=memory_mb)) as decoder:
        with pytest.raises(QuarantineError, match=f"memory_mb = {memory_mb}") as caught:
            list(decoder.decode(large, "u"))
        assert caught.value.reason == "decode_memory"
        if memory_mb == 18:
            assert len(list(decoder.decode(GOOD, "u"))) == 49


def test_memory_does_not_grow_with_the_length_of_a_video():
    """Three hundred frames of half a megabyte go through 48, and the child is fit for more."""
    luma = np.zeros((480, 640), np.uint8)
    chroma = np.full((240, 320), 128, np.uint8)
    long = sample(encode([[luma, chroma, chroma]] * 300, pix_fmt="yuv420p", codec="mpeg4"))
    rule = ClipRule(frames=10, height=64, width=64, fps=None, short="drop")
    with Decoder(rule, DecodeLimits(memory_mb=48)) as decoder:
        assert len(list(decoder.decode(long, "u"))) == 30
    with Decoder(rule, DecodeLimits()) as decoder:
        decoder.start()
        child = pid_of(decoder)
        assert len(list(decoder.decode(long, "u"))) == 30
        assert pid_of(decoder) == child


@pytest.mark.parametrize(
    "lie",
    [{"size": size} for size in ([31, 64], [64, 31], [6000, 6000], [64], None, ["a", "b"])]
    + [{"num_frames": 1 << 30}],
)
def test_a_child_that_lies_about_a_size_is_not_believed(
    lie: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    """No memory is taken for what cannot be a picture of the rule and the limits."""
    receive = Child.receive

    def lying(child: Child, timeout_s: float) -> dict[str, Any]:
        header = receive(child, timeout_s)
        return header | lie if header["kind"] == "clip" else header

    monkeypatch.setattr(Child, "receive", lying)
    rule = ClipRule(frames=1, height=32, width=32, fps=None, short="drop", fit="whole")
    with Decoder(rule) as decoder, pytest.raises(QuarantineError) as caught:
        next(decoder.decode(GOOD, "u"))
    assert caught.value.reason == "decode_crash"
    assert "protocol" in caught.value.detail


def test_a_missing_file_is_a_fault_of_reading(decoder: Decoder, tmp_path: Path):
    gone = Sample(key="gone", video=str(tmp_path / "gone.mp4"), video_name="gone.mp4")
    with pytest.raises(StoreError, match="No such file"):  # the folder is empty: a mount is away
        list(decoder.decode(gone, "u"))
    (tmp_path / "other.mp4").touch()
    with pytest.raises(QuarantineError, match="No such file") as caught:
        list(decoder.decode(gone, "u"))
    assert (caught.value.stage, caught.value.reason) == ("read", "file_unreadable")


def test_a_disk_that_fails_is_not_a_fault_of_the_video():
    with VideoFile("/proc/self/mem") as file:  # address 0 is never mapped, so reading is EIO
        with pytest.raises(OSError, match="Input/output error"):
            file.read(1)
        assert file.failed is not None


def test_what_a_process_could_not_read_is_tried_again(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
):
    assert works(decoder)
    said = {"kind": "unread", "detail": "OSError: [Errno 116] Stale file handle"}
    monkeypatch.setattr(Child, "receive", lambda *_: said)
    with pytest.raises(StoreError, match="Stale file handle"):
        list(decoder.decode(GOOD, "u"))


def test_closing_ends_the_child_and_may_be_repeated(decoder: Decoder):
    assert works(decoder)
    pid = pid_of(decoder)
    decoder.close()
    decoder.close()
    assert not psutil.pid_exists(pid)
    assert works(decoder)


ORPHAN = """
import sys
from pipeline.decode import ClipRule, Decoder
from pipeline.records import Sample
decoder = Decoder(ClipRule(frames=17, height=256, width=256, fps=None, short="drop"))
clips = decoder.decode(Sample(key="k", video=sys.argv[1], video_name="k"), "u")
next(clips)
if sys.argv[2] == "idle":
    for _ in clips:
        pass
print(decoder.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["busy", "idle"])
def test_a_child_does_not_outlive_a_killed_parent(state: str):
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(BIKES.path), state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        server = child.parent()
        assert server is not None
        assert server.ppid() == parent.pid
        parent.kill()
    _, alive = psutil.wait_procs([child, server], timeout=60)
    assert not alive


SPIN = """
import re, signal
from pipeline.decode.child.watchdog import Watchdog
dog = Watchdog(0.2, lambda: None)
dog.start_alarm()
print("spinning", flush=True)
re.match("(a+)+$", "a" * 60 + "b")
"""


def test_the_alarm_ends_a_process_that_spins_with_the_interpreters_lock():
    """What no thread and no Python handler can end: a C function that never returns."""
    spinning = subprocess.run(
        [sys.executable, "-c", SPIN], stdout=subprocess.PIPE, timeout=120, check=False
    )
    assert spinning.stdout == b"spinning\n"
    assert spinning.returncode == -signal.SIGALRM


def test_nothing_is_written_to_the_parents_output(capfd: pytest.CaptureFixture[str]):
    broken = Sample(
        key="b", video=str(BIKES.path.parent / "broken" / "zeroed_middle.mp4"), video_name="b"
    )
    with Decoder(RULE) as decoder, pytest.raises(QuarantineError):
        list(decoder.decode(broken, "u"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("forged", "says"),
    [
        ({"numbers": {"a": 1, "b": 2.5}}, None),
        ({"numbers": {"a": -(2**31), "b": None}}, None),
        ({"numbers": {"a": 1}}, "numbers ['a'], not ['a', 'b']"),
        ({"numbers": {"a": 2**31, "b": 0.0}}, "a = 2147483648 is out of the range of int32"),
        ({"numbers": {"a": 1.0, "b": 0.0}}, "a = 1.0, not a number of type int32"),
        ({"numbers": {"a": True, "b": 0.0}}, "a = True, not a number of type int32"),
        ({"numbers": {"a": 1, "b": float("inf")}}, "b = inf is out of the range of float32"),
        ({"numbers": {"a": 1, "b": 1e39}}, "b = 1e+39 is out of the range of float32"),
        ({"numbers": {"a": 1, "b": float("nan")}}, "b = nan is out of the range of float32"),
        ({"numbers": {"a": 1, "b": "2"}}, "b = '2', not a number of type float32"),
        ({"numbers": {"a": 1, "b": 2.0}, "dropped": "no rule"}, "dropped by 'no rule'"),
    ],
)
def test_numbers_and_rules_of_a_forged_header(
    forged: dict[str, Any], says: str | None, monkeypatch: pytest.MonkeyPatch
):
    receive = Child.receive

    def forge(child: Child, timeout_s: float) -> dict[str, Any]:
        header = receive(child, timeout_s)
        return header | forged if header["kind"] == "clip" else header

    monkeypatch.setattr(Child, "receive", forge)
    with Decoder(RULE, numbers={"a": "int32", "b": "float32"}) as decoder:
        if says is None:
            assert next(decoder.decode(GOOD, "u"))[0].side == forged["numbers"]
            return
        with pytest.raises(QuarantineError, match=re.escape(says)):
            list(decoder.decode(GOOD, "u"))
