"""A short round of chaos: a node dies while the store fails. The command plays many more."""

import subprocess
import sys

import pytest

from tests.jobs.conftest import ROOT


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_doubled() -> None:
    # A process of its own: nodes inherit their environment from the one that starts them.
    command = [sys.executable, "-m", "tests.chaos", "--few", "--seeds=1", "--first=2"]
    done = subprocess.run([*command, "--kinds=s3-node"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rounds = [line for line in done.stdout.splitlines() if line.endswith(": well")]
    assert [line.split(":")[0] for line in rounds] == ["s3-node 2"]
    [total] = [line for line in done.stdout.splitlines() if line.startswith("| all |")]
    _, _, played, runs, injected, _, rows, lost, doubled, _ = map(str.strip, total.split("|"))
    assert (played, lost, doubled) == ("1", "0", "0")
    assert int(runs) >= 1
    assert int(injected) >= 1
    assert int(rows) == 19
