"""Memory that a device can give to activations."""

import math
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch

_SHARE = 0.8
"""Fraction of the free memory to fill. The rest is for kernels and gradients of activations."""


def free_bytes(device: torch.device) -> float | None:
    """Return the memory that a device can give to activations; None if it has no memory."""
    if device.type == "cpu":
        return _SHARE * min(float(psutil.virtual_memory().available), cgroup_left())
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return _SHARE * (torch.cuda.mem_get_info(device)[0] + cached)
    return None


def cgroup_left(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> float:
    """Return the bytes that the memory limits of this process's control groups leave.

    Pages of files count as free, because the kernel takes them back first. Without a limit the
    result is infinite.

    Args:
        own: file that lists the groups of the process (versions 1 and 2).
        root: folder of the groups.
    """
    left = math.inf
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return left
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used = root, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = base / path.lstrip("/")
        for group in (folder, *folder.parents):
            try:
                most, now = (int((group / name).read_text()) for name in (limit, used))
                stat = dict(
                    line.split() for line in (group / "memory.stat").read_text().splitlines()
                )
            except (OSError, ValueError):  # no limit, or a group outside the container
                continue
            left = min(left, most - now + int(stat["active_file"]) + int(stat["inactive_file"]))
    return left
