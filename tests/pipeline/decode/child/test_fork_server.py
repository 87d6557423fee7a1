"""The process that decoder processes are forked from: stopped, killed, broken, and shared."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from pipeline.decode import ClipRule, DecodeLimits, Decoder
from pipeline.decode.child.fork_server import (
    ForkServer,
    anonymous_file,
    close_fork_server,
    fork_server,
)
from pipeline.decode.child.process import Child
from pipeline.errors import PipelineError
from pipeline.records import Sample
from tests.assets import BIKES, HIKER

RULE = ClipRule(frames=17, height=256, width=256, fps=None, short="drop")
GOOD = Sample(key="hiker", video=HIKER.path.read_bytes(), video_name="hiker.mp4")
LONG = Sample(key="bikes", video=BIKES.path.read_bytes(), video_name="bikes.mp4")


@pytest.fixture
def new_server() -> None:
    """The test starts a fork server of its own."""
    close_fork_server()


def works(decoder: Decoder) -> bool:
    return [frames is None for _, frames in decoder.decode(GOOD, "u")] == [False, False, True]


def test_all_children_of_a_process_come_from_one_server():
    children = [Child() for _ in range(3)]
    try:
        assert {psutil.Process(child.pid).ppid() for child in children} == {fork_server().pid}
        assert len({child.pid for child in children}) == 3
    finally:
        for child in children:
            child.kill()
    assert not any(psutil.pid_exists(child.pid) for child in children)


def test_threads_may_start_children_at_the_same_time():
    found: list[bool] = []

    def decode() -> None:
        with Decoder(RULE) as decoder:
            found.append(works(decoder))

    threads = [threading.Thread(target=decode) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 3


def open_files(pid: int) -> dict[str, str]:
    """Return what each open descriptor of a process leads to."""
    found = {}
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found[fd.name] = os.readlink(fd)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_inherits_no_file_of_another():
    """Standard input is empty; beside the standard streams there is its own socket alone."""
    first, second = Child(), Child()
    try:
        for child in (first, second):
            deadline = time.monotonic() + 30
            while len(open_files(child.pid)) != 4 and time.monotonic() < deadline:
                time.sleep(0.01)  # it has been forked, and may not have closed the server's yet
            files = open_files(child.pid)
            assert files.pop("0") == files.pop("1") == "/dev/null"
            assert files.pop("2").startswith("/memfd:")
            assert [where.partition(":")[0] for where in files.values()] == ["socket"]
    finally:
        first.kill()
        second.kill()


def test_a_crash_of_one_child_does_not_touch_another():
    with Decoder(RULE) as one, Decoder(RULE) as other:
        clips = other.decode(LONG, "u")
        next(clips)
        one.start()
        assert one.pid is not None
        os.kill(one.pid, signal.SIGSEGV)
        before = other.pid
        assert sum(1 for _ in clips) == 14
        assert other.pid == before
        assert works(one)


def test_a_server_that_dies_is_started_again(caplog: pytest.LogCaptureFixture):
    with Decoder(RULE) as decoder:
        assert works(decoder)
        first = fork_server()
        decoder.close()
        os.kill(first.pid, signal.SIGKILL)
        assert works(decoder)
        assert fork_server().pid != first.pid
    assert f"the fork server {first.pid} has ended" in caplog.text


def test_a_server_that_dies_during_a_video_costs_nothing():
    with Decoder(RULE, DecodeLimits(timeout_s=5)) as decoder:
        clips = decoder.decode(LONG, "u")
        next(clips)
        os.kill(fork_server().pid, signal.SIGKILL)
        assert sum(1 for _ in clips) == 14
        assert works(decoder)


@pytest.mark.usefixtures("new_server")
def test_a_server_that_is_stopped_while_it_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.decode.child.fork_server.CHECK_S", 0.05)
    server = fork_server()
    os.kill(server.pid, signal.SIGSTOP)
    with pytest.raises(PipelineError, match="does not start: it was stopped"):
        Child()
    assert not psutil.pid_exists(server.pid)


def test_a_server_that_is_stopped_later_is_replaced(monkeypatch: pytest.MonkeyPatch):
    child = Child()
    child.kill()
    monkeypatch.setattr("pipeline.decode.child.fork_server.CHECK_S", 0.05)
    monkeypatch.setattr("pipeline.decode.child.fork_server.START_S", 60)
    server = fork_server()
    os.kill(server.pid, signal.SIGSTOP)
    with Decoder(RULE) as decoder:
        assert works(decoder)
    assert not psutil.pid_exists(server.pid)


def test_a_server_that_is_slow_to_start_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, new_server: None
):
    monkeypatch.setattr("pipeline.decode.child.fork_server.CHECK_S", 0.01)
    monkeypatch.setattr("pipeline.decode.child.fork_server.START_S", 600)
    with Decoder(RULE) as decoder:
        assert works(decoder)


def test_a_broken_installation_is_no_samples_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_server: None
):
    (tmp_path / "pipeline.py").write_text("raise ImportError('a broken installation')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    fork_server()
    monkeypatch.undo()
    with pytest.raises(PipelineError, match=r"does not start.*code 1.*a broken installation"):
        Child()


def test_the_working_directory_is_not_imported_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, new_server: None
):
    """`python -P`: a `pipeline.py` that lies there by chance is not the pipeline."""
    (tmp_path / "pipeline.py").write_text("raise ImportError('of the working directory')")
    monkeypatch.chdir(tmp_path)
    Child().kill()


STARTING = (
    "from pipeline.decode.child.fork_server import *; print(fork_server().pid, flush=True); input()"
)


def test_a_server_that_still_starts_does_not_outlive_a_killed_parent():
    command = [sys.executable, "-c", STARTING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    assert psutil.wait_procs([server], timeout=60)[1] == []


def test_a_process_id_is_freed_once():
    server = fork_server()
    child = Child()
    os.kill(child.pid, signal.SIGSEGV)
    assert server.end(child.pid, 5.0) == -signal.SIGSEGV
    assert server.end(child.pid, 0.0) is None
    assert server.end(os.getpid(), 0.0) is None, "not a process of the server"
    child.kill()


def test_a_closed_server_is_an_error_for_its_users():
    server = ForkServer()
    server.close()
    server.close()
    assert server.end(1, 0.0) is None
    with (
        anonymous_file() as stderr,
        socket.socket() as unused,
        pytest.raises(PipelineError, match="has ended"),
    ):
        server.fork(unused, stderr)
