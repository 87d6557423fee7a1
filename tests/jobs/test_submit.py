"""`ray job submit` from end to end, against a cluster of its own that checks tokens."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest
import yaml

from tests.forked_workers import VARIABLES, forked_workers
from tests.jobs.conftest import JOB, ROOT, committed_rows, job, pack, sound_videos

_KEPT = (
    "RAY_worker_niceness",
    "RAY_prestart_worker_first_driver",
    "RAY_idle_worker_killing_time_threshold_ms",
    "RAY_USAGE_STATS_ENABLED",
    *VARIABLES,
)
"""Variables that only spare processes; `tests/conftest.py` and `forked_workers` set them."""

_TOKEN = "0123456789abcdef" * 4


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """URL of the dashboard of a cluster, and the environment that may speak to it.

    Its workers have imported libraries and Ray, but nothing of the repository: that must come from
    what a job uploads.
    """
    with forked_workers(ours=False):
        yield from _dashboard(tmp_path_factory.mktemp("head") / "log")


def _dashboard(log_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    gcs, http, agent = _free_ports(3)
    # Ray's sockets lie below this folder, and their names have a limit of 107 bytes.
    folder = Path(f"/tmp/ray-submit-{os.getpid()}")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RAY_") or name in _KEPT
    }
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}"),
        *(f"--dashboard-port={http}", f"--dashboard-agent-listen-port={agent}"),
        *("--no-monitor", "--include-log-monitor=false"),  # each is a process that imports Ray
    ]
    hook = {"RAY_START_HOOK": "tests.forked_workers.hook"}
    log = log_path.open("w+")
    head = subprocess.Popen(
        command, cwd=ROOT, env=environment | hook, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and head.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", http)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{http}", environment
    finally:
        for process in [*psutil.Process(head.pid).children(recursive=True), head]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait(timeout=60)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(600)
def test_submit_stop_and_submit_again(
    dashboard: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    url, environment = dashboard
    settings = tmp_path / "job.yaml"
    tars = pack(tmp_path / "tars", sound_videos()[:4], per_tar=1)
    settings.write_text(json.dumps(job(tars, "unused", tokenizers=JOB["tokenizers"][:1]).public()))
    output = tmp_path / "out"

    def ray_job(*command: str) -> subprocess.CompletedProcess[str]:
        verb = [sys.executable, "-m", "ray.scripts.scripts", "job", command[0], f"--address={url}"]
        return subprocess.run(
            [*verb, *command[1:]],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
        )

    words = ("submit", "--working-dir", ".", "--", sys.executable, "jobs/tokenize_corpus.py")
    endless = [sys.executable, "-m", "tests.jobs.endless_job"]
    arguments = [str(settings), f"output.uri={output}"]
    begun = ray_job(
        *("submit", "--no-wait", "--submission-id=night", "--working-dir", ".", "--"),
        *(*endless, *arguments),
    )
    assert begun.returncode == 0, begun.stdout + begun.stderr
    first = output / "log/00000000000000000001.json"
    deadline = time.monotonic() + 240
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert first.exists(), ray_job("logs", "night").stdout
    # As `ray job stop` does; the command imports Ray for it.
    stop = Request(f"{url}/api/jobs/night/stop", b"", {"Authorization": f"Bearer {_TOKEN}"})
    with urlopen(stop, timeout=60) as reply:
        assert json.load(reply) == {"stopped": True}
    asked = Request(f"{url}/api/jobs/night", headers=dict(stop.headers))
    while (status := json.load(urlopen(asked, timeout=60))["status"]) == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert status == "STOPPED"

    # As infra/runtime_env.yaml, without the packages, which this Python has.
    values = yaml.safe_load((ROOT / "infra/runtime_env.yaml").read_text())
    del values["pip"]
    runtime_env = tmp_path / "runtime_env.yaml"
    runtime_env.write_text(yaml.safe_dump(values))
    named = ("submit", f"--runtime-env={runtime_env}", "--", *words[4:])
    done = ray_job(*named, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    before = committed_before(done.stdout)
    assert 1 <= before <= 3
    assert f"4 planned · {4 - before} done" in done.stdout
    [joined] = re.findall(r"^ray +(joined at .+)$", done.stdout, re.MULTILINE)
    assert joined.endswith(" · nodes: 1 · CPUs: 2 · GPUs: 0"), joined
    assert set(committed_rows(output)["key"].to_pylist()) == {p.stem for p in sound_videos()[:4]}


def committed_before(printed: str) -> int:
    """Return how many units the log held when a run began, as its summary says."""
    [number] = re.findall(r"· (\d+) committed before ·", printed)
    return int(number)
