"""What this machine has: GPUs, processor features, memory, disk. Without torch."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_GPU_FIELDS: Final = "name,memory.total,memory.free,driver_version"

_CGROUPS: Final = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)
"""Files with the limit and the use of memory, of versions 2 and 1."""

CPU_FLAGS: Final = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_bf16": "AVX-512 bf16",
    "amx_bf16": "AMX",
}
"""Names of the processor features that matter, by their flag in `/proc/cpuinfo`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU."""

    name: str
    total_bytes: int
    free_bytes: int
    driver: str


def parse_gpus(text: str) -> list[Gpu]:
    """Return the GPUs in the output of `nvidia-smi` for `_GPU_FIELDS`, in MiB without units."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line]
    return [
        Gpu(name=row[0], total_bytes=_mib(row[1]), free_bytes=_mib(row[2]), driver=row[3])
        for row in rows
        if len(row) == 4
    ]


def _mib(text: str) -> int:
    return int(text) << 20 if text.isdecimal() else 0


def gpus() -> list[Gpu]:
    """Return the GPUs that NVIDIA's driver shows; none without a driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_gpus(done.stdout) if done.returncode == 0 else []


def cpu_features(cpuinfo: str) -> list[str]:
    """Return the features that matter, from the content of `/proc/cpuinfo`."""
    flags = set(re.findall(r"\w+", cpuinfo))
    return [name for flag, name in CPU_FLAGS.items() if flag in flags]


def free_memory() -> int:
    """Return the bytes of memory that this process can use: of the machine, and of its cgroup."""
    free = [psutil.virtual_memory().available]
    for limit, used in _CGROUPS:
        try:
            texts = Path(limit).read_text(), Path(used).read_text()
        except OSError:
            continue
        if all(text.strip().isdecimal() for text in texts):
            free.append(max(0, int(texts[0]) - int(texts[1])))
    return min(free)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
