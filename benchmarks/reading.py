"""TokenDataset compared with a bare scan of the same columns and with other loaders.

    python -m benchmarks.reading [--clips 4000] [--rounds 5] [--batch 32] [--mosaicml]

Writes a dataset of random tokens as the job does (FSQ uint32 and KL float16 of 17×256×256 clips),
and the same rows as WebDataset tars and as shards of MosaicML Streaming. Each is read whole in this
process, in turns. `scan` is pyarrow.dataset over the parts, without shuffling or conversion. `ours`
yields shuffled batches of tensors. `webdataset` does the same with an equally large shuffle buffer,
and `mosaicml` with an equally large shuffle block of uncompressed local shards. Files are in the
page cache, so the comparison excludes the disk.

MosaicML Streaming is not a dependency: it requires NumPy below 2.2 and installs the libraries of
five clouds. `--mosaicml` needs `pip install mosaicml-streaming==0.13.*`, in its own environment.
"""

import argparse
import io
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import torch
import webdataset

import pipeline
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.metadata import new_dataset, open_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.reading import Snapshot, TokenDataset
from pipeline.records import Clip
from pipeline.storage.store import Store

if TYPE_CHECKING:
    from streaming import MDSWriter

_UNIT_CLIPS = 500
_POOL_ROWS = 512
_STRANDS = 8
_BUCKET = "17x256x256"
FSQ = TokenizerColumn(
    name="fsq",
    kind="indices",
    dtype="uint32",
    axes=("t", "h", "w"),
    model="drawn",
    fingerprint="0",
    codebook_size=1 << 18,
    causal_factor=4,
)
KL = TokenizerColumn(
    name="kl",
    kind="latents",
    dtype="float16",
    axes=("c", "t", "h", "w"),
    model="drawn",
    fingerprint="0",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--mosaicml", action="store_true", help="also compare MosaicML Streaming")
    asked = parser.parse_args()
    if asked.mosaicml:
        try:
            import streaming  # noqa: F401
        except ImportError as error:
            parser.error(f"--mosaicml: {error}; pip install 'mosaicml-streaming==0.13.*'")
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder  # MosaicML Streaming leaves files for its locks there
        made = _made(Path(folder), asked.clips, with_mds=asked.mosaicml)
        print(
            "| columns | reader | rows/s | MB/s | of the scan (range) | CPU per row | first batch |"
        )
        print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
        for columns in (["fsq"], ["kl"], ["fsq", "kl"]):
            _compare(made, columns, asked.batch, asked.rounds)


class Made(NamedTuple):
    """The same rows, written for each reader."""

    snapshot: Snapshot
    tars: list[str]
    mds: str | None
    """Folder of MosaicML Streaming's shards; None without --mosaicml."""


def _compare(made: Made, columns: list[str], batch: int, rounds: int) -> None:
    snapshot, tars, mds = made
    readers: dict[str, Callable[[], Iterator[int]]] = {
        "scan": lambda: _scan(snapshot, columns),
        "ours": lambda: _ours(snapshot, columns, batch),
        "webdataset": lambda: _webdataset(tars, columns, batch),
    }
    if mds is not None:
        readers["mosaicml"] = lambda: _mosaicml(mds, columns, batch)
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


def _mosaicml(folder: str, columns: list[str], batch: int) -> Iterator[int]:
    from streaming import StreamingDataset

    dataset = StreamingDataset(
        local=folder,
        batch_size=batch,
        shuffle=True,
        shuffle_seed=0,
        shuffle_block_size=_POOL_ROWS * _STRANDS,
        num_canonical_nodes=1,
    )
    # Without a DataLoader, which does the same in this process at a slightly higher cost.
    rows = (tuple(row[name] for name in columns) for row in dataset)
    while taken := list(islice(rows, batch)):
        yield len(_stacked(taken)[0])


def _stacked(rows: list[tuple[np.ndarray, ...]]) -> list[torch.Tensor]:
    """Return tensors as `ours` yields them: int64 for indices."""
    return [
        torch.from_numpy(values.astype(np.int64) if values.dtype == np.uint32 else values)
        for values in (np.stack(column) for column in zip(*rows, strict=True))
    ]


def _made(folder: Path, clips: int, *, with_mds: bool) -> Made:
    """Write the rows in each way."""
    store = Store(str(folder / "tokens"))
    schema = clip_schema([FSQ, KL])
    made = {
        column.name: {
            "weights": "drawn",
            "facts": {
                "kind": column.kind,
                "channels": 9 if column is FSQ else 4,
                "codebook_size": column.codebook_size,
                "levels": [4] * 9 if column is FSQ else [],
            },
        }
        for column in (FSQ, KL)
    }
    clip = {"frames": 17, "height": 256, "width": 256, "fps": 8.0}
    identity = {"clip": clip, "tokenizers": made}
    dataset = new_dataset((FSQ, KL), identity)
    open_dataset(store, dataset)
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="benchmark")
    rng = np.random.default_rng(0)
    tars = []
    mds = str(folder / "mds") if with_mds else None
    shards = _mds_writer(mds) if mds else None
    for n in range(-(-clips // _UNIT_CLIPS)):
        count = min(_UNIT_CLIPS, clips - n * _UNIT_CLIPS)
        cells = {
            "fsq": rng.integers(0, 1 << 18, (count, 5, 32, 32), np.uint32),
            "kl": rng.standard_normal((count, 16, 5, 32, 32), np.float32).astype(np.float16),
        }
        with PartWriter(store, schema, unit=f"u{n}", bucket=_BUCKET) as writer:
            writer.add(pa.Table.from_batches([clip_rows(clips_of(n, count), cells, schema)]))
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
                    statistics={},
                )
            ]
        )
        tars.append(str(folder / f"{n}.tar"))
        _write_tar(tars[-1], cells)
        if shards is not None:
            for fsq, kl in zip(cells["fsq"], cells["kl"], strict=True):
                shards.write({"fsq": fsq, "kl": kl})
    if shards is not None:
        shards.finish()
    return Made(pipeline.open(store.uri), tars, mds)


def _mds_writer(folder: str) -> "MDSWriter":
    from streaming import MDSWriter

    columns = {"fsq": "ndarray:uint32:5,32,32", "kl": "ndarray:float16:16,5,32,32"}
    return MDSWriter(out=folder, columns=columns)


def clips_of(unit: int, count: int) -> list[Clip]:
    return [
        Clip(
            unit=f"u{unit}",
            key=f"k{n // 10}",
            clip_index=n % 10,
            start_s=n % 10,
            end_s=n % 10 + 1,
            num_frames=17,
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
