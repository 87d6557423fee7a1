"""Measures the seconds that the job's tokenizers take for a clip, on this machine's device."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config.job import JobConfig
from pipeline.formatting import counted
from pipeline.job.setup import Tokenizers
from pipeline.tokenizers.arithmetic import job_arithmetic
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.models import open_encoder

_CALLS: Final = 5
"""Number of measured calls, whose median counts; one call before them warms up."""


def device_here(config: JobConfig) -> str:
    """Return `cuda` if the job may run on a GPU and this machine has one, else `cpu`."""
    return "cuda" if config.tokenize.device != "cpu" and torch.cuda.is_available() else "cpu"


def device_name(config: JobConfig, device: str) -> str:
    """Return the name of the device for a person."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    return f"{counted(config.tokenize.threads, 'thread')} of this CPU"


def clip_seconds(
    config: JobConfig,
    tokenizers: Tokenizers,
    examples: Mapping[str, NDArray[Any]],
    *,
    device: str,
    seconds: float,
) -> dict[str, float]:
    """Return the seconds that all tokenizers together take for one clip of each bucket.

    Args:
        config: the job.
        tokenizers: its models.
        examples: a clip [T, H, W, 3] of each bucket.
        device: `cpu` or `cuda`.
        seconds: time budget in seconds. Each tokenizer and bucket has at least one call, which
            counts if there is no time for another.
    """
    times = dict.fromkeys(examples, 0.0)
    share = seconds / max(1, len(examples) * len(config.tokenizers))
    with job_arithmetic(config.tokenize.threads):
        for spec, column, digest in zip(
            config.tokenizers, tokenizers.columns, tokenizers.digests, strict=True
        ):
            encoder = open_encoder(
                spec, column, digest=digest, device=device, tile=config.tokenize.tile
            )
            batch = 1 if device == "cpu" else spec.batch
            for bucket, clip in examples.items():
                times[bucket] += _call_seconds(encoder, np.stack([clip] * batch), share) / batch
    return times


def _call_seconds(encoder: ClipEncoder, frames: NDArray[Any], seconds: float) -> float:
    calls: list[float] = []
    until = time.monotonic() + seconds
    while len(calls) <= _CALLS and (not calls or time.monotonic() + calls[-1] < until):
        began = time.monotonic()
        encoder(frames)  # ends on the CPU, so a GPU has finished
        calls.append(time.monotonic() - began)
    return median(calls[1:] or calls)
