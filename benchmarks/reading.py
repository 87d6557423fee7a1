"""TokenDataset beside a bare scan of the same columns, and beside WebDataset with the same tokens.

    python -m benchmarks.reading [--clips 4000] [--rounds 5] [--batch 32]

Writes a dataset of drawn tokens as the job does (FSQ uint32 and KL float16 of 17×256×256 clips),
and the same rows as WebDataset tars. Each is read whole in this process, in turns: `scan` is
pyarrow.dataset over the parts, nothing shuffled and nothing made of the rows; `ours` yields
shuffled batches of tensors; `webdataset` does so with a shuffle buffer as large. Files are in the
page cache: what is compared is work, not the disk.
"""

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import torch
import webdataset

import pipeline
from pipeline.dataset import new_dataset, open_dataset
from pipeline.log import CommitLog
from pipeline.part_writer import PartWriter
from pipeline.parts import TokenizerColumn, clip_rows, clip_schema
from pipeline.reading import Snapshot, TokenDataset
from pipeline.records import Clip, Counts, UnitRecord
from pipeline.storage import Store

_UNIT_CLIPS = 500
_POOL_ROWS = 512
_STRANDS = 8
_BUCKET = "17x256x256"
_FSQ = TokenizerColumn(
    name="fsq",
    kind="fsq",
    dtype="uint32",
    axes=("t", "h", "w"),
    model="drawn",
    fingerprint="0",
    codebook_size=1 << 18,
)
_KL = TokenizerColumn(
    name="kl", kind="kl", dtype="float16", axes=("c", "t", "h", "w"), model="drawn", fingerprint="0"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        snapshot, tars = _made(Path(folder), asked.clips)
        print(
            "| columns | reader | rows/s | MB/s | of the scan (range) | CPU per row | first batch |"
        )
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
        for columns in (["fsq"], ["kl"], ["fsq", "kl"]):
            _compare(snapshot, tars, columns, asked.batch, asked.rounds)


def _compare(
    snapshot: Snapshot, tars: list[str], columns: list[str], batch: int, rounds: int
) -> None:
    readers: dict[str, Callable[[], Iterator[int]]] = {
        "scan": lambda: _scan(snapshot, columns),
        "ours": lambda: _ours(snapshot, columns, batch),
        "webdataset": lambda: _webdataset(tars, columns, batch),
    }
    rates: dict[str, list[float]] = {name: [] for name in readers}
    firsts: dict[str, list[float]] = {name: [] for name in readers}
    worked: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, read in readers.items():
            start, cpu = time.perf_counter(), time.process_time()
            rows = iter(read())
            count = next(rows)
            firsts[name].append(time.perf_counter() - start)
            count += sum(rows)
            rates[name].append(count / (time.perf_counter() - start))
            worked[name].append((time.process_time() - cpu) / count)
            assert count == len(snapshot), f"{name}: {count} rows of {len(snapshot)}"
    row_mb = sum({"fsq": 4, "kl": 2 * 16}[name] for name in columns) * 5 * 32 * 32 / 1e6
    for name in readers:
        ratios = [a / b for a, b in zip(rates[name], rates["scan"], strict=True)]
        rate = statistics.median(rates[name])
        print(
            f"| {', '.join(columns)} | {name} | {rate:,.0f} | {rate * row_mb:,.0f} |"
            f" {statistics.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%}) |"
            f" {statistics.median(worked[name]) * 1e6:.0f} µs |"
            f" {statistics.median(firsts[name]):.3f} s |",
            flush=True,
        )


def _scan(snapshot: Snapshot, columns: list[str]) -> Iterator[int]:
    paths = [snapshot.store.locate(part.path) for part in snapshot.parts()]
    for rows in pa.dataset.dataset(paths).to_batches(columns=columns):
        yield rows.num_rows


def _ours(snapshot: Snapshot, columns: list[str], batch: int) -> Iterator[int]:
    dataset = TokenDataset(snapshot, columns, batch, pool_rows=_POOL_ROWS, strands=_STRANDS)
    for rows in dataset:
        yield len(rows[columns[0]])


def _webdataset(tars: list[str], columns: list[str], batch: int) -> Iterator[int]:
    names = [f"{name}.npy" for name in columns]
    rows = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0, empty_check=False)
        .shuffle(_POOL_ROWS * _STRANDS)
        .decode()
        .to_tuple(*names)
        .batched(batch, collation_fn=_stacked)
    )
    for one in rows:
        yield len(one[0])


def _stacked(rows: list[tuple[np.ndarray, ...]]) -> list[torch.Tensor]:
    """Make the tensors that ours are: int64 of indices."""
    return [
        torch.from_numpy(values.astype(np.int64) if values.dtype == np.uint32 else values)
        for values in (np.stack(column) for column in zip(*rows, strict=True))
    ]


def _made(folder: Path, clips: int) -> tuple[Snapshot, list[str]]:
    """Write the rows both ways."""
    store = Store(str(folder / "tokens"))
    schema = clip_schema([_FSQ, _KL])
    identity = {"clip": {"frames": 17, "height": 256, "width": 256}, "tokenizers": {}}
    dataset = new_dataset((_FSQ, _KL), identity)
    open_dataset(store, dataset)
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="benchmark")
    rng = np.random.default_rng(0)
    tars = []
    for n in range(-(-clips // _UNIT_CLIPS)):
        count = min(_UNIT_CLIPS, clips - n * _UNIT_CLIPS)
        cells = {
            "fsq": rng.integers(0, 1 << 18, (count, 5, 32, 32), np.uint32),
            "kl": rng.standard_normal((count, 16, 5, 32, 32), np.float32).astype(np.float16),
        }
        with PartWriter(store, schema, unit=f"u{n}", bucket=_BUCKET) as writer:
            writer.add(pa.Table.from_batches([clip_rows(_clips(n, count), cells, schema)]))
            parts = writer.publish()
        log.append(
            [
                UnitRecord(
                    unit=f"u{n}",
                    sources=(f"u{n}",),
                    parts=parts,
                    quarantine=None,
                    counts=Counts(clips_seen=count, clips_written=count),
                    reasons={},
                )
            ]
        )
        tars.append(str(folder / f"{n}.tar"))
        _write_tar(tars[-1], cells)
    return pipeline.open(store.uri), tars


def _clips(unit: int, count: int) -> list[Clip]:
    return [
        Clip(
            unit=f"u{unit}",
            key=f"k{n // 10}",
            clip_index=n % 10,
            start_s=n % 10,
            end_s=n % 10 + 1,
            source_fps=30.0,
            source_height=720,
            source_width=1280,
            crop=(0.0, 280.0, 720.0, 720.0),
            caption=f"video {n // 10} of unit {unit}",
        )
        for n in range(count)
    ]


def _write_tar(path: str, cells: dict[str, np.ndarray]) -> None:
    with tarfile.open(path, "w") as tar:
        for n in range(len(cells["fsq"])):
            for name, values in cells.items():
                data = io.BytesIO()
                np.save(data, values[n])
                info = tarfile.TarInfo(f"{n:06}.{name}.npy")
                info.size = data.tell()
                data.seek(0)
                tar.addfile(info, data)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
