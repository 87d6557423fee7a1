"""Tracks: arrays of actions, poses or sensors beside a video, resampled to the frames of a clip.

A sidecar is read as an array, or as arrays by name: the columns of CSV, the lists of a JSON object,
the fields of a structured NPY. A list gives columns. The chosen ones are joined to one row of D
numbers for each sample. Nothing is unpickled, and no size that a sidecar declares is believed.
"""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.lib import format as npy
from numpy.typing import ArrayLike, NDArray

from pipeline.config.tracks import TrackConfig
from pipeline.errors import one_line

MAX_TRACK_BYTES: Final = 8 << 20
"""Maximum size of the sidecar of a track."""


MAX_WIDTH: Final = 4096
"""Maximum number of numbers of one sample of a track, and of columns of its CSV."""


@dataclass(frozen=True, slots=True)
class Track:
    """Samples of a track."""

    times: NDArray[np.float64]
    """Times [N] of the samples in seconds from the video's beginning; they never decrease."""
    values: NDArray[np.float64]
    """Values [N, D], which are finite as float32."""
    slack_s: float
    """Half the usual time between two samples: so far the first and last sample reach."""

    def at(self, times: ArrayLike, method: str) -> tuple[NDArray[np.float32], int]:
        """Return the values at some times.

        Args:
            times: T times in seconds from the video's beginning.
            method: `nearest` takes the sample that is nearest, of two equally near the earlier;
                `linear` interpolates. Both hold the first and the last sample beyond the ends.

        Returns:
            Array [T, D], and the number of times beyond the ends by more than `slack_s`.
        """
        own, last = self.times, len(self.times) - 1
        asked = np.asarray(times, np.float64)
        outside = (asked < own[0] - self.slack_s) | (asked > own[-1] + self.slack_s)
        asked = asked.clip(own[0], own[-1])
        left = (np.searchsorted(own, asked, "right") - 1).clip(0, last)
        right = (left + 1).clip(0, last)
        if method == "nearest":
            values = self.values[np.where(own[right] - asked < asked - own[left], right, left)]
        else:
            gap = own[right] - own[left]
            share = np.divide(asked - own[left], gap, out=np.zeros_like(gap), where=gap > 0)
            before = self.values[left]
            values = before + (self.values[right] - before) * share[:, np.newaxis]
        return values.astype(np.float32), int(outside.sum())


def read_track(data: bytes, config: TrackConfig) -> Track:
    """Return the track that a sidecar holds.

    Args:
        data: content of the sidecar.
        config: what is taken from it.

    Raises:
        ValueError: it holds no such track; the text says why.
    """
    if len(data) > MAX_TRACK_BYTES:
        raise ValueError(f"has {len(data)} bytes; the limit is {MAX_TRACK_BYTES}")
    try:
        found = _PARSERS[config.form](data)
    except (ValueError, RecursionError, csv.Error) as error:
        raise ValueError(f"not {config.form.upper()}: {one_line(error)}") from error
    return track_of(found, config)


def track_of(found: Any, config: TrackConfig) -> Track:
    """Return the track in an array, or in arrays by name.

    Args:
        found: an array, or a mapping of arrays.
        config: what is taken from it.

    Raises:
        ValueError: it holds no such track; the text says why.
    """
    if isinstance(found, Mapping):
        names = config.key or [name for name in found if name != config.times]
        arrays = [_numbers(_named(found, name), name) for name in names]
    elif config.key or config.times:
        lacking = ", ".join([*config.key, *filter(None, [config.times])])
        raise ValueError(f"holds one array without names, so it has no {lacking}")
    else:
        arrays = [_numbers(found, "the array")]
    if not arrays or not (count := len(arrays[0])) or any(len(a) != count for a in arrays):
        raise ValueError(
            f"its arrays have {[len(array) for array in arrays]} samples; need the same, above 0"
        )
    values = np.concatenate([array.reshape(count, -1) for array in arrays], axis=1)
    if not 1 <= values.shape[1] <= MAX_WIDTH:
        raise ValueError(f"has {values.shape[1]} numbers in each sample; the limit is {MAX_WIDTH}")
    if np.abs(values).max() > np.finfo(np.float32).max:
        raise ValueError("a number is beyond the range of float32")
    if config.rate is not None:
        return Track(np.arange(count) / config.rate, values, 0.5 / config.rate)
    assert config.times is not None
    times = _numbers(_named(found, config.times), config.times)
    if times.shape != (count,):
        raise ValueError(f"{config.times} has the shape {list(times.shape)}, not [{count}]")
    if (np.diff(times) < 0).any():
        raise ValueError(f"{config.times} decreases; times must ascend or stay equal")
    return Track(times, values, float(times[-1] - times[0]) / max(count - 1, 1) / 2)


def _named(arrays: Mapping[str, Any], name: str) -> Any:
    if name not in arrays:
        raise ValueError(f"has no {name}")
    return arrays[name]


def _numbers(values: Any, name: str) -> NDArray[np.float64]:
    """Return finite numbers as an array of one dimension or more; a text can spell a number."""
    if isinstance(values, np.ndarray) and values.dtype.kind not in "biuf":
        raise ValueError(f"{name}: {values.dtype} is not a type of numbers")
    try:
        array = np.asarray(values, np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{name}: {one_line(error)}") from error
    if not array.ndim or not np.isfinite(array).all():
        raise ValueError(f"{name}: {'one number' if not array.ndim else 'NaN or infinity'}")
    return array


def _read_json(data: bytes) -> Any:
    return json.loads(data.decode("utf-8-sig"))


def _read_csv(data: bytes) -> dict[str, list[str]]:
    """Return the columns of a CSV by the names in its first row."""
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    header = [name.strip() for name in next(rows, [])]
    if len(header) > MAX_WIDTH or len(set(header)) < len(header):
        raise ValueError(f"has {len(header)} columns with {len(set(header))} different names")
    columns: list[list[str]] = [[] for _ in header]
    for row in filter(None, rows):
        for column, cell in zip(columns, row, strict=True):
            column.append(cell)
    return dict(zip(header, columns, strict=True))


def _read_npy(data: bytes) -> Any:
    """Return the array of an NPY, or its fields by name, as views of the bytes."""
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = header(file)
        if dtype.hasobject or len(data) - file.tell() != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(data) - file.tell()} bytes are not {dtype} {list(shape)}")
        array = np.frombuffer(data, dtype, offset=file.tell())
        array = array.reshape(shape, order="F" if fortran else "C")
    except Exception as error:  # NumPy evaluates the header, which can hold any literal
        raise ValueError(one_line(error)) from error
    return array if dtype.names is None else {name: array[name] for name in dtype.names}


_PARSERS: Final = {"json": _read_json, "csv": _read_csv, "npy": _read_npy}
