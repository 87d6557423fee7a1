"""Tracks of list rows: columns of the list, or the rows of another Parquet file that belong to one.

Their times count from the beginning of a row's span, and are moved to those of its video.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config.tracks import TrackConfig
from pipeline.errors import StoreError, one_line
from pipeline.quarantine import QuarantineError
from pipeline.sources.list_text import Row
from pipeline.sources.lists import OF_ARROW, open_parquet_list
from pipeline.sources.tracks import MAX_TRACK_BYTES, Track, track_of

_BATCH_ROWS: Final = 1024


_log = logging.getLogger(__name__)


def row_tracks(
    arrays: Row | str, configs: Sequence[TrackConfig], key: str, begins_s: float
) -> tuple[dict[str, Track], dict[str, str]]:
    """Return the tracks of a row by name, and the problems of those that it has in part.

    Args:
        arrays: arrays by column, or the reason why there are none.
        configs: tracks of the job.
        key: key of the sample, for the log.
        begins_s: second of the video at which the row's span begins.

    Raises:
        QuarantineError: a required track is missing.
    """
    found: dict[str, Track] = {}
    problems: dict[str, str] = {}
    for config in configs:
        try:
            if isinstance(arrays, str):
                raise ValueError(arrays)
            held = {name: arrays[name] for name in config.columns if arrays.get(name) is not None}
            if not held and not config.required:
                continue
            track = track_of(held, config)
            found[config.name] = replace(track, times=track.times + begins_s)
        except ValueError as error:
            problems[config.name] = str(error)
            _log.warning("%s: track %s: %s", key, config.name, error)
            if config.required:
                detail = f"{config.name}: {error}"
                raise QuarantineError("read", "no_track", detail) from error
    return found, problems


def frame_arrays(
    uri: str, key: str, value: object, columns: Sequence[str], options: Mapping[str, Any] | None
) -> dict[str, NDArray[Any]]:
    """Return columns of the rows of a Parquet file whose `key` column has a value.

    Row groups whose statistics exclude the value are not read.

    Raises:
        ValueError: the file is damaged, lacks a column, or holds too much for one value.
        FileNotFoundError: the file is missing.
        StoreError: the store failed.
    """
    try:
        with open_parquet_list(uri, options) as file:
            lacking = [name for name in (key, *columns) if name not in file.schema_arrow.names]
            if lacking:
                raise ValueError(f"{uri} has no column {', '.join(lacking)}")
            groups = [n for n in range(file.num_row_groups) if _may_hold(file, n, key, value)]
            batches, num_bytes = [], 0
            for batch in file.iter_batches(
                batch_size=_BATCH_ROWS,
                row_groups=groups,
                columns=[key, *columns],
                use_threads=False,
            ):
                batches.append(batch.filter(pc.equal(batch[key], value)))
                num_bytes += batches[-1].nbytes
                if num_bytes > MAX_TRACK_BYTES:
                    raise ValueError(f"more than {MAX_TRACK_BYTES} bytes in {uri} have this {key}")
            if not any(map(len, batches)):
                raise ValueError(f"no row of {uri} has {key} = {value}")
            table = pa.Table.from_batches(batches)
            return {name: _array(table[name].combine_chunks(), name) for name in columns}
    except (StoreError, FileNotFoundError):
        raise
    except (pa.ArrowException, *OF_ARROW) as error:
        raise ValueError(f"{uri}: {one_line(error)}") from error


def _may_hold(file: pq.ParquetFile, group: int, key: str, value: Any) -> bool:
    """Return whether a row group can have a value, by the column's statistics."""
    metadata = file.metadata.row_group(group)
    for n in range(metadata.num_columns):
        column = metadata.column(n)
        if column.path_in_schema == key and column.is_stats_set and column.statistics.has_min_max:
            try:
                return bool(column.statistics.min <= value <= column.statistics.max)
            except TypeError:
                return True
    return True


def _array(values: pa.Array, name: str) -> NDArray[Any]:
    """Return a column of numbers, or of lists of one length, as an array [N, …]."""
    shape = [len(values)]
    while pa.types.is_nested(values.type) and hasattr(values.type, "value_field"):
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if values.null_count or len(lengths) != 1:
            raise ValueError(f"{name}: its lists have different lengths; they must have the same")
        shape.append(lengths[0])
        values = values.flatten()
    if values.null_count or not pa.types.is_primitive(values.type):
        raise ValueError(
            f"{name}: has type {values.type} and {values.null_count} nulls; must be numbers"
        )
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)
