"""What checksums of pages cost: bytes, writing and reading, compared with files without them.

    python -m benchmarks.checksums [--clips 1000] [--rounds 7]

Writes the rows of `benchmarks.reading` (FSQ uint32 and KL float16 of 17×256×256 clips) as the job
writes a part, with and without checksums. Reads all columns, or the code indices alone, with and
without comparing them. In this process, in turns, in memory: the comparison excludes the disk.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.reading import FSQ, KL
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.parquet_file import parquet_reader, parquet_writer, read_group, seal
from pipeline.dataset.schema import clip_schema
from pipeline.records import Clip

_GROUP_ROWS = 22
"""Number of rows of a row group of 4 MiB."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    rows = _rows(asked.clips)
    plain, checked = _written(rows, checksums=False), _written(rows, checksums=True)
    print(f"{rows.nbytes / 1e6:.0f} MB of rows: {len(plain)} bytes, {len(checked)} with checksums")
    _compare("write", asked.rounds, lambda on: _written(rows, checksums=on), rows.nbytes)
    for columns in (None, ["fsq", "clip_id"]):
        size = rows.nbytes if columns is None else rows.select(columns).nbytes
        name = "read all" if columns is None else f"read {' and '.join(columns)}"
        _compare(name, asked.rounds, lambda on, names=columns: _read(checked, names, on=on), size)


def _rows(count: int) -> pa.Table:
    rng = np.random.default_rng(0)
    cells = {
        "fsq": rng.integers(0, 1 << 18, (count, 5, 32, 32), np.uint32),
        "kl": rng.standard_normal((count, 16, 5, 32, 32), np.float32).astype(np.float16),
    }
    clips = [
        Clip(
            unit="u",
            key=f"k{n}",
            clip_index=0,
            start_s=n / 8,
            end_s=n / 8 + 2.125,
            source_fps=25.0,
            source_height=480,
            source_width=640,
            crop=(0.0, 80.0, 480.0, 480.0),
            num_frames=17,
            caption=f"clip {n}",
        )
        for n in range(count)
    ]
    return pa.Table.from_batches([clip_rows(clips, cells, clip_schema([FSQ, KL]))])


def _written(rows: pa.Table, *, checksums: bool) -> bytes:
    file = io.BytesIO()
    packed = [name for name in rows.column_names if name != "kl"]
    options = {"compression": dict.fromkeys(packed, "zstd") | {"kl": "none"}}
    make = parquet_writer if checksums else pq.ParquetWriter
    with make(file, rows.schema, **options) as writer:
        writer.write_table(rows, row_group_size=_GROUP_ROWS)
    if checksums:
        seal(file)
    return file.getvalue()


def _read(data: bytes, columns: list[str] | None, *, on: bool) -> None:
    source = pa.BufferReader(data)
    parquet = parquet_reader(source) if on else pq.ParquetFile(source)
    for group in range(parquet.num_row_groups):
        if on:
            read_group(parquet, group, columns, use_threads=False)
        else:
            parquet.read_row_group(group, columns=columns, use_threads=False)


def _compare(name: str, rounds: int, act: Callable[[bool], object], num_bytes: int) -> None:
    """Print the median speed without and with checksums, and their ratio by round."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for on in (False, True):
            began = time.process_time()
            act(on)
            seconds[on].append(time.process_time() - began)
    speeds = [num_bytes / 1e6 / statistics.median(seconds[on]) for on in (False, True)]
    ratios = sorted(a / b for a, b in zip(seconds[False], seconds[True], strict=True))
    print(f"{name}: {speeds[0]:.0f} MB/s without, {speeds[1]:.0f} with,", end=" ")
    print(f"{statistics.median(ratios):.2f}× ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
