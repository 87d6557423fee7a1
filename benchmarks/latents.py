"""Latents at 5 to 8 bits, and code indices at levels of zstd: bytes, PSNR, and time of a core.

    python -m benchmarks.latents FOLDER [--size 256] [--clips 2] [--rows 600] [--rounds 7]

Encodes up to `--clips` clips of 17 frames at 8 fps of each video in a folder with the two bundled
models. The first table compares types of latents: bytes of a clip in a part, PSNR of the frames
that the stored cells decode to, and reading with `TokenDataset` from a dataset of `--rows` rows.
The second table compares compressions of a column: bits of a cell, and the time to write it and to
read it with its checksums. One thread, files in memory or in the page cache, in turns, medians of
the rounds; times are CPU times.
"""

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

import pipeline
import vidtok
from benchmarks.reading import FSQ, KL
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.metadata import new_dataset, open_dataset
from pipeline.dataset.parquet_file import (
    parquet_reader,
    parquet_writer,
    read_footer,
    read_group,
    seal,
)
from pipeline.dataset.part_writer import ROW_GROUP_BYTES, PartWriter
from pipeline.dataset.quantized import quantize
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.decode import ClipRule, Decoder
from pipeline.quarantine import QuarantineError
from pipeline.reading import Snapshot, TokenDataset
from pipeline.records import Clip, Sample
from pipeline.storage.store import Store
from pipeline.tokenizers.encoder import ClipEncoder

_FRAMES = 17
_FSQ = replace(FSQ, model="vidtok_fsq_causal_488_262144_tiny")
_KL = replace(KL, model="vidtok_kl_causal_488_8chn_tiny", dtype="float32")
_LATENTS = (
    replace(_KL, name="float32"),
    replace(_KL, name="float16", dtype="float16"),
    *(replace(_KL, name=f"bits{bits}", dtype="uint8", bits=bits) for bits in (8, 7, 6, 5)),
)
"""Columns of the same latents."""

_COMPRESSIONS = {
    "fsq": [("none", 0), *(("zstd", level) for level in (3, 9, 12, 15, 17, 19))],
    "float16": [("none", 0), ("zstd", 3)],
    **{f"bits{bits}": [("none", 0), ("zstd", 3)] for bits in (8, 7, 6, 5)},
}

Cells = dict[str, NDArray[Any]]
Clips = list[tuple[Clip, NDArray[Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=256, help="pixels along a side of a clip")
    parser.add_argument("--clips", type=int, default=2, help="maximum number of clips of a video")
    parser.add_argument("--rows", type=int, default=600, help="number of rows that are read")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    clips = list(_clips(asked.folder, asked.size, asked.clips))
    print(f"{len(clips)} clips of {_FRAMES}x{asked.size}x{asked.size}\n")
    frames = np.stack([pixels for _, pixels in clips])
    fsq, kl = (ClipEncoder(vidtok.load(column.model), column, batch=1) for column in (_FSQ, _KL))
    cells = fsq(frames)[0] | _stored(kl(frames)[0]["kl"])
    rows = pa.Table.from_batches(
        [clip_rows([clip for clip, _ in clips], cells, clip_schema((_FSQ, *_LATENTS)))]
    )
    psnr = {column.name: _psnr(column, rows, frames) for column in _LATENTS}
    with tempfile.TemporaryDirectory() as folder:
        snapshots = {
            column.name: _written(Store(f"{folder}/{column.name}"), column, rows, asked)
            for column in _LATENTS
        }
        _compare_types(snapshots, psnr, asked.rounds)
    _compare_compressions(rows, cells, asked.rounds)


def _clips(folder: Path, size: int, most: int) -> Iterator[tuple[Clip, NDArray[Any]]]:
    """Yield clips with their frames [T, H, W, 3]; videos that cannot be decoded have none."""
    rule = ClipRule(frames=_FRAMES, height=size, width=size, fps=8.0, short="drop")
    with Decoder(rule) as decoder:
        for path in sorted(folder.iterdir()):
            sample = Sample(key=path.name, video=str(path), video_name=path.name)
            found = 0
            with suppress(QuarantineError, OSError):
                for clip, pixels in decoder.decode(sample, "u"):
                    if pixels is None or found == most:
                        break
                    found += 1
                    yield clip, pixels


def _stored(latents: NDArray[np.float32]) -> Cells:
    cells: Cells = {"float32": latents, "float16": latents.astype("<f2")}
    for column in _LATENTS:
        if column.bits is not None:
            cells[column.name], cells[f"{column.name}_scale"] = quantize(latents, column.bits)
    return cells


def _psnr(column: TokenizerColumn, rows: pa.Table, frames: NDArray[Any]) -> list[float]:
    encoder = ClipEncoder(vidtok.load(column.model), column, batch=1)
    stored = rows.select([column.name, f"{column.name}_shape", *column.scale_columns]).to_pylist()
    return [encoder.psnr(row, clip) for row, clip in zip(stored, frames, strict=True)]


def _written(
    store: Store, column: TokenizerColumn, rows: pa.Table, asked: argparse.Namespace
) -> Snapshot:
    """Write the rows with one tokenizer again and again, as one unit."""
    made = {column.name: {"weights": "", "config": {}}}
    count, size = asked.rows, asked.size
    clip = {"frames": _FRAMES, "height": size, "width": size, "fps": 8.0}
    dataset = new_dataset((column,), {"clip": clip, "tokenizers": made})
    open_dataset(store, dataset)
    bucket, schema = f"{_FRAMES}x{size}x{size}", clip_schema((column,))
    rows = rows.select(schema.names).cast(schema)
    with PartWriter(store, schema, unit="u", bucket=bucket) as writer:
        for start in range(0, count, rows.num_rows):
            writer.add(rows.slice(0, count - start))
        parts = writer.publish()
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="benchmark")
    counts = Counts(clips_seen=count, clips_written=count)
    unit = UnitRecord(
        unit="u",
        sources=("u",),
        parts=parts,
        quarantine=None,
        counts=counts,
        reasons={},
        statistics={},
    )
    log.append([unit])
    return pipeline.open(store.uri)


def _compare_types(
    snapshots: Mapping[str, Snapshot], psnr: Mapping[str, list[float]], rounds: int
) -> None:
    sizes = {name: _column_bytes(snapshot, name) for name, snapshot in snapshots.items()}
    read = {
        (name, dtype): partial(_read, snapshot, name, dtype)
        for name, snapshot in snapshots.items()
        for dtype in (None, torch.float32)
    }
    seconds = _in_turns(read, rounds)
    print("| latents | bytes | of float16 | PSNR, dB | change: mean, worst | read | to float32 |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    exact = np.array(psnr["float32"])
    for name, values in psnr.items():
        changes = np.array(values) - exact
        times = (
            _versus(seconds[name, dtype], seconds["float16", dtype])
            for dtype in (None, torch.float32)
        )
        size = sizes[name]
        print(
            f"| {name} | {size / len(snapshots[name]):,.0f} | {size / sizes['float16']:.1%} |"
            f" {np.mean(values):.3f} | {changes.mean():+.4f}, {changes.min():+.4f} |"
            f" {' | '.join(times)} |"
        )


def _column_bytes(snapshot: Snapshot, column: str) -> int:
    """Return the bytes of a column of latents, and of its scales."""
    total = 0
    for part in snapshot.parts():
        with snapshot.store.open(part.path) as file:
            footer = read_footer(file)
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for chunk in map(group.column, range(group.num_columns)):
                name = chunk.path_in_schema.partition(".")[0]
                if name in (column, f"{column}_scale"):
                    total += chunk.total_compressed_size
    return total


def _read(snapshot: Snapshot, name: str, dtype: torch.dtype | None) -> int:
    batches = TokenDataset(snapshot, [name], 32, pool_rows=64, dtype=dtype)
    return sum(len(batch[name]) for batch in batches)


def _compare_compressions(rows: pa.Table, cells: Cells, rounds: int) -> None:
    print("\n| column | compression | bits of a cell | write | read |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name, compressions in _COMPRESSIONS.items():
        table = rows.select([name])
        files = {one: _file(table, *one) for one in compressions}
        write = _in_turns({one: partial(_file, table, *one) for one in compressions}, rounds)
        read = _in_turns({one: partial(_read_file, data) for one, data in files.items()}, rounds)
        for codec, level in compressions:
            one = codec, level
            bits = 8 * len(files[one]) / cells[name].size
            per_row = [statistics.median(t[one]) / len(rows) for t in (write, read)]
            times = " | ".join(f"{1e6 * each:,.0f} µs" for each in per_row)
            print(f"| {name} | {codec} {level or ''} | {bits:.2f} | {times} |")


def _file(table: pa.Table, codec: str, level: int) -> bytes:
    file = io.BytesIO()
    writer = parquet_writer(
        file,
        table.schema,
        compression=codec,
        compression_level=level or None,
        use_dictionary=False,
        write_statistics=False,
    )
    rows = max(1, ROW_GROUP_BYTES * len(table) // table.nbytes)
    writer.write_table(table, row_group_size=rows)
    writer.close()
    seal(file)
    return file.getvalue()


def _read_file(data: bytes) -> int:
    parquet = parquet_reader(pa.BufferReader(data))
    return sum(
        read_group(parquet, n, use_threads=False).num_rows for n in range(parquet.num_row_groups)
    )


def _in_turns(acts: Mapping[Any, Callable[[], object]], rounds: int) -> dict[Any, list[float]]:
    """Return the CPU seconds of each act in each round, after one round to warm up."""
    seconds: dict[Any, list[float]] = {name: [] for name in acts}
    for n in range(rounds + 1):
        for name, act in acts.items():
            start = time.process_time()
            act()
            if n:
                seconds[name].append(time.process_time() - start)
    return seconds


def _versus(ours: list[float], theirs: list[float]) -> str:
    """Return the speed relative to another, as the median and range of the rounds."""
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f}× ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
