"""Quality while a job runs: one clip in so many is decoded back as soon as it is tokenized.

Which clips are drawn follows from their ids alone: a unit that is done again draws the same. Their
cells are decoded as they will be stored, one clip at a time: neither batches nor neighbours show in
the outcome.
"""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.bucket_statistics import PsnrSums, merged
from pipeline.encode import ClipEncoder

_log = logging.getLogger(__name__)


def is_drawn(clip_id: str, one_in: int) -> bool:
    """Return whether a clip is one of those that are decoded back, about one in `one_in`."""
    digest = hashlib.sha256(f"decode back {clip_id}".encode()).digest()
    return int.from_bytes(digest[:8]) % one_in == 0


def measure(
    encoders: Sequence[ClipEncoder], rows: pa.RecordBatch, frames: Sequence[NDArray[Any]]
) -> dict[str, PsnrSums]:
    """Return by tokenizer how well clips' cells stand for their frames.

    A clip that cannot be decoded is counted: its tokens are made, and a measurement must not cost
    them. If the device is broken, the next batch says so.

    Args:
        encoders: one per tokenizer.
        rows: the clips' rows, as they will be stored.
        frames: of each clip [T, H, W, 3] in [0, 255].
    """
    total: dict[str, PsnrSums] = {}
    for row, clip in zip(rows.to_pylist(), frames, strict=True):
        for encoder in encoders:
            total = merged(total, {encoder.column.name: _measured(encoder, row, clip)})
    return total


def _measured(encoder: ClipEncoder, row: dict[str, Any], frames: NDArray[Any]) -> PsnrSums:
    clip_id = row["clip_id"]
    try:
        return PsnrSums.of(clip_id, encoder.psnr(row, frames))
    except Exception as error:
        _log.warning("%s: %s: not decoded back: %s", clip_id, encoder.column.name, error)
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
        return PsnrSums.of(clip_id, None)
