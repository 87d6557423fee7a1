"""What a device can give, also within the limits of control groups."""

import math
from pathlib import Path

import pytest
import torch

from vidtok import free_memory
from vidtok.free_memory import cgroup_left, free_bytes


def test_each_kind_of_device_says_what_it_has() -> None:
    assert free_bytes(torch.device("meta")) is None
    free = free_bytes(torch.device("cpu"))
    assert free is not None
    assert 1e6 < free < 1e15


def test_a_control_group_limits_what_a_cpu_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "cgroup_left", lambda: 1000.0)
    assert free_bytes(torch.device("cpu")) == 800


def group(folder: Path, limit: str, used: int, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text("anon 7\nactive_file 20\ninactive_file 30\n")


V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes")
V2 = ("memory.max", "memory.current")


@pytest.mark.parametrize(
    ("line", "base", "names"),
    [("0::/pod/job", "", V2), ("4:cpu,memory:/pod/job", "memory", V1)],
)
def test_the_tightest_group_counts_without_pages_of_files(
    line: str, base: str, names: tuple[str, str], tmp_path: Path
) -> None:
    own, root = tmp_path / "own", tmp_path / "groups"
    own.write_text(f"9:cpuset:/\n{line}\n")
    group(root / base / "pod/job", "max", 400, names)
    assert cgroup_left(own, root) == math.inf
    group(root / base / "pod", "1000", 600, names)
    assert cgroup_left(own, root) == 450
    group(root / base / "pod/job", "500", 400, names)
    assert cgroup_left(own, root) == 150


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_left(tmp_path / "absent", tmp_path) == math.inf
    (tmp_path / "own").write_text("0::/elsewhere\n")
    assert cgroup_left(tmp_path / "own", tmp_path) == math.inf
