"""The command as people start, kill and interrupt it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipeline.commands import main
from pipeline.training import run_log
from pipeline.training.checkpoints import CheckpointWriter
from tests.pipeline.training.runs import KL, LOW, SMALL, rows, settings
from tests.ranks import fork_server
from vidtok.presets import PRESETS

ROOT = Path(__file__).parents[3]
RUN = {"loaders": 1, "stages": [{**LOW, "steps": 9}], "keep_checkpoints": 9}
SHORT = {"model": KL, "checkpoint_every": 3, "log_every": 2}


def write(folder: Path, **changes: Any) -> Path:
    """Write a run's settings into a folder; its output is `out` beside them."""
    folder.mkdir()
    path = folder / "train.yaml"
    path.write_text(json.dumps(settings(folder / "out", **(RUN | changes))))
    return path


def train_and_wait(path: Path, step: int) -> None:
    """Run the command as a terminal starts it; wait behind a checkpoint, so a signal finds it."""
    os.setsid()
    # A suite started in the background of a shell ignores Ctrl-C, and its children with it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(path.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT), number)
    torch.set_num_threads(1)
    run_log.curve_png = no_curve
    PRESETS.update(SMALL)
    save = CheckpointWriter.save

    def save_and_wait(writer: CheckpointWriter, at: int, *state: Any) -> None:
        save(writer, at, *state)
        while at == step:
            time.sleep(0.1)

    CheckpointWriter.save = save_and_wait  # type: ignore[method-assign]
    sys.exit(main(["train", str(path)]))


def no_curve(_: Any) -> None:
    """Draw no picture of a run: it takes as long as five of its steps."""


class Job:
    """A training in a process group of its own, forked from a process that has imported torch."""

    def __init__(self, path: Path, hold_at: int) -> None:
        self._path = path
        self._process = fork_server().Process(target=train_and_wait, args=(path, hold_at))
        self._process.start()

    def signal_at(self, step: int, number: signal.Signals) -> None:
        """Send a signal to the whole group once the checkpoint of a step is there."""
        marker = self._path.parent / f"out/1-low/checkpoints/{step:08d}.pt"
        deadline = time.monotonic() + 250
        while not marker.exists():
            assert self._process.is_alive(), "it ended before"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(self._process.pid, number)

    def end(self) -> tuple[int | None, str, str]:
        """Wait; return the exit code and what was printed. No process of the group is left."""
        self._process.join(120)
        left = [process for process in psutil.process_iter() if self._is_ours(process)]
        assert psutil.wait_procs(left, timeout=60)[1] == []
        out, err = (self._path.with_suffix(f".{name}").read_text() for name in ("out", "err"))
        return self._process.exitcode, out, err

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return os.getsid(process.pid) == self._process.pid
        except ProcessLookupError:
            return False


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_and_interrupted_it_ends_with_the_losses_of_an_undisturbed_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    # As many threads as the killed processes have: then rounding is the same, too.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    request.addfinalizer(lambda: torch.set_num_threads(threads))
    monkeypatch.setattr(run_log, "curve_png", no_curve)
    for name, preset in SMALL.items():
        monkeypatch.setitem(PRESETS, name, preset)

    # Where nothing is killed, the process decodes by itself: a loader of its own gives the same.
    assert main(["train", str(write(tmp_path / "whole", **SHORT)), "loaders=0"]) == 0
    out, err = capsys.readouterr()
    assert (out.splitlines()[-1], err) == (
        f"low: {tmp_path}/whole/out/1-low/model.safetensors",
        "",
    )

    path = write(tmp_path / "cut", **SHORT)
    killed = Job(path, 3)  # with a loader, which must end, too
    killed.signal_at(3, signal.SIGKILL)
    assert killed.end()[0] == -signal.SIGKILL
    assert not (tmp_path / "cut/out/1-low/model.safetensors").exists()

    interrupted = Job(path, 6)
    interrupted.signal_at(6, signal.SIGINT)
    code, out, err = interrupted.end()
    assert code == 130
    assert err == "interrupted; run the same command again to continue\n"
    assert out.splitlines()[0].startswith("low: 3 of 9 batches done")

    assert main(["train", str(path), "loaders=0"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[0].startswith("low: 6 of 9 batches done")
    losses = rows(tmp_path / "cut/out", of="train")
    assert [row["step"] for row in losses] == [2, 3, 4, 6, 8, 9]
    assert losses == rows(tmp_path / "whole/out", of="train")
    one, two = (load_file(tmp_path / n / "out/1-low/model.safetensors") for n in ("whole", "cut"))
    assert all(one[name].equal(two[name]) for name in one)


def test_a_wrong_configuration_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "run")
    assert main(["train", str(path), "model=vidtok"]) == 2
    assert capsys.readouterr().err.startswith("error: command line: model = vidtok: no model has")
    assert main(["train", str(path), "source.uri=nowhere"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "nowhere" in line
    assert main(["train", str(tmp_path / "none.yaml")]) == 2
    assert not (tmp_path / "run/out").exists()


def test_an_output_that_cannot_be_written_is_a_wrong_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").touch()
    path = write(tmp_path / "run", loaders=0)
    assert main(["train", str(path), f"output={tmp_path}/taken/out"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: output = {tmp_path}/taken/out: Not a directory; choose a place")


def test_a_training_that_diverges_is_one_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(PRESETS, KL, SMALL[KL])
    path = write(tmp_path / "run", **SHORT, loaders=0, stages=[{**LOW, "lr": 1e30}])
    assert main(["train", str(path)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: low: batch 2: the loss or its gradient is not finite; lower lr")


def test_usage() -> None:
    job = [sys.executable, str(ROOT / "jobs/train_tokenizer.py")]
    shown = subprocess.run([*job, "--help"], capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "Train a tokenizer" in shown.stdout
    assert subprocess.run(job, capture_output=True).returncode == 2
