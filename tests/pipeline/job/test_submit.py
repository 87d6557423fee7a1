"""`ray job submit` from end to end, against a cluster of its own that checks tokens."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.pipeline.job.conftest import ROOT, VIDEOS, committed_rows, job


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
    """URL of a head node's dashboard, and the environment that may speak to it."""
    gcs, http, agent = _free_ports(3)
    # Ray's sockets lie below this folder, and their names have a limit of 107 bytes.
    folder = Path(f"/tmp/ray-submit-{os.getpid()}")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--num-cpus=4", "--object-store-memory=200000000", "--disable-usage-stats"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={folder}"),
        *(f"--dashboard-port={http}", f"--dashboard-agent-listen-port={agent}"),
    ]
    log = (tmp_path_factory.mktemp("head") / "log").open("w+")
    head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and head.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", http)) == 0:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{http}", environment
    finally:
        family = psutil.Process(head.pid).children(recursive=True)
        for process in [*family, head]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        head.wait(timeout=60)
        log.close()


def test_submit(dashboard: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    url, environment = dashboard
    settings = tmp_path / "job.yaml"
    settings.write_text(json.dumps(job(str(VIDEOS / "hiker_tiny.mp4"), "unused").public()))
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", f"--address={url}"),
        *("--working-dir", ".", "--", sys.executable, "jobs/tokenize_corpus.py", str(settings)),
        f"output.uri={tmp_path / 'out'}",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 planned · 1 done" in done.stdout
    assert committed_rows(tmp_path / "out").num_rows == 9

    wrong = subprocess.run(
        [*command, "clip.frames=6"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert wrong.returncode != 0
    assert "clip.frames = 6" in wrong.stdout
