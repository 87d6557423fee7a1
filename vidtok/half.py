"""Half precision on a CPU: which processors have units for it, and what the others compute in.

Without such units, a convolution in half precision takes two to four times as long as in float32.
So a network in half precision then computes in float32, with its rounded weights: it takes the time
of float32, and its result is nearer to that of float32. Which processors have units is known from
`/proc/cpuinfo`, so that one processor always computes the same.
"""

import copy
import re
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

_HALF = (torch.bfloat16, torch.float16)

_Network = TypeVar("_Network", bound=nn.Module)


def bfloat16_is_fast(cpuinfo: str) -> bool:
    """Return whether a processor multiplies bfloat16 faster than float32.

    Matrix units (AMX) do, at about six times the rate. AMD's AVX-512 does, at twice the rate.
    Intel's AVX-512 without AMX has the instructions too, and runs them at half the rate.

    Args:
        cpuinfo: content of `/proc/cpuinfo`.
    """
    flags = set(re.findall(r"\w+", cpuinfo))
    return "amx_bf16" in flags or {"avx512_bf16", "AuthenticAMD"} <= flags


@cache
def cpu_is_fast(dtype: torch.dtype) -> bool:
    """Return whether this machine's processor computes in a type at least as fast as in float32.

    float16 is not fast on any processor with the releases of torch so far.
    """
    if dtype == torch.bfloat16:
        try:
            return bfloat16_is_fast(Path("/proc/cpuinfo").read_text())
        except OSError:  # not Linux
            return False
    return dtype not in _HALF


def arithmetic(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Return the type that a network of a dtype computes in on a device."""
    return torch.float32 if device.type == "cpu" and not cpu_is_fast(dtype) else dtype


def in_arithmetic(network: _Network) -> _Network:
    """Return a network that computes in its `arithmetic`: itself, or a copy with float32 weights.

    The copy is made for one call or stream, so that it never has old weights.
    """
    first = next(network.parameters())
    if arithmetic(first.device, first.dtype) == first.dtype:
        return network
    floats = {id(p): nn.Parameter(p.detach().float(), False) for p in network.parameters()}
    return copy.deepcopy(network, floats)
