"""Joined datasets compared with each alone, and with one dataset that has all columns.

    python -m benchmarks.joining [--clips 4000] [--rounds 7] [--batch 32]

Writes random tokens as the job does: FSQ uint32 and KL float16 of 17×256×256 clips, and `text`,
256 kB for each clip. Each is a dataset of its own, and `one` has the columns of both. Units are
committed in another order in each, and row groups end elsewhere. Each is read whole in this
process, in turns, as shuffled batches of tensors. Files are in the page cache, so the comparison
excludes the disk. Speeds are compared by CPU time, because it depends less on other load.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import pipeline
from benchmarks.reading import FSQ, KL, clips_of
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.metadata import new_dataset, open_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.reading import Snapshot, TokenDataset
from pipeline.reading.corpus import Corpus
from pipeline.storage.store import Store

_UNIT_CLIPS = 500
_BUCKET = "17x256x256"
TEXT = replace(KL, name="text")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    asked = parser.parse_args()
    print("| read | rows/s | CPU per row | speed of the slower alone (range) |")
    print("| --- | ---: | ---: | ---: |")
    for columns in ((FSQ, KL), (FSQ, TEXT)):
        with tempfile.TemporaryDirectory() as folder:
            _compare(folder, columns, asked.clips, asked.rounds, asked.batch)


def _compare(
    folder: str, columns: Sequence[TokenizerColumn], clips: int, rounds: int, batch: int
) -> None:
    names = [column.name for column in columns]
    alone = {
        name: make_dataset(f"{folder}/{name}", [column], clips, seed)
        for seed, (name, column) in enumerate(zip(names, columns, strict=True))
    }
    start = time.perf_counter()
    joined = alone[names[0]].join(alone[names[1]])
    opened = time.perf_counter() - start
    one = make_dataset(f"{folder}/one", columns, clips, 2)
    readers: dict[str, tuple[Corpus, list[str]]] = {
        **{name: (snapshot, [name]) for name, snapshot in alone.items()},
        "one": (one, names),
        "joined": (joined, names),
    }
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    worked: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, (corpus, wanted) in readers.items():
            start, cpu = time.perf_counter(), time.process_time()
            count = sum(len(rows[wanted[0]]) for rows in TokenDataset(corpus, wanted, batch))
            seconds[name].append((time.perf_counter() - start) / count)
            worked[name].append((time.process_time() - cpu) / count)
            assert count == len(corpus) == clips, f"{name}: {count} rows of {len(corpus)}"
    slower = max(names, key=lambda name: statistics.median(worked[name]))
    for name in readers:
        ratios = [a / b for a, b in zip(worked[slower], worked[name], strict=True)]
        what = f"{', '.join(names)}, {name}" if name in ("one", "joined") else f"{name} alone"
        print(
            f"| {what} | {1 / statistics.median(seconds[name]):,.0f} |"
            f" {statistics.median(worked[name]) * 1e6:.0f} µs |"
            f" {statistics.median(ratios):.0%} ({min(ratios):.0%} to {max(ratios):.0%}) |",
            flush=True,
        )
    print(f"{', '.join(names)}: joined in {opened:.2f} s, {opened / clips * 1e6:.0f} µs a clip")


def make_dataset(uri: str, columns: Sequence[TokenizerColumn], clips: int, seed: int) -> Snapshot:
    """Write a dataset."""
    store, schema = Store(uri), clip_schema(columns)
    made = {
        each.name: {
            "weights": "drawn",
            "config": {"fsq_levels": [4] * 9 if each is FSQ else []},
            "facts": {
                "kind": each.kind,
                "channels": 9 if each is FSQ else 16,
                "codebook_size": each.codebook_size,
                "levels": [4] * 9 if each is FSQ else [],
            },
        }
        for each in columns
    }
    clip = {"frames": 17, "height": 256, "width": 256, "fps": 8.0}
    dataset = new_dataset(tuple(columns), {"clip": clip, "tokenizers": made})
    open_dataset(store, dataset)
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="benchmark")
    rng = np.random.default_rng(seed)
    units = list(range(-(-clips // _UNIT_CLIPS)))
    random.Random(seed).shuffle(units)
    for n in units:
        count = min(_UNIT_CLIPS, clips - n * _UNIT_CLIPS)
        cells = {column.name: _cells(column, count, rng) for column in columns}
        with PartWriter(store, schema, unit=f"u{n}", bucket=_BUCKET) as writer:
            writer.add(pa.Table.from_batches([clip_rows(clips_of(n, count), cells, schema)]))
            parts = writer.publish()
        record = UnitRecord(
            unit=f"u{n}",
            sources=(f"u{n}",),
            parts=parts,
            quarantine=None,
            counts=Counts(clips_seen=count, clips_written=count),
            reasons={},
            statistics={},
        )
        log.append([record])
    return pipeline.open(uri)


def _cells(column: TokenizerColumn, count: int, rng: np.random.Generator) -> NDArray[np.generic]:
    if column == FSQ:
        return rng.integers(0, 1 << 18, (count, 5, 32, 32), np.uint32)
    shape = (4096, 32, 1, 1) if column == TEXT else (16, 5, 32, 32)
    return rng.standard_normal((count, *shape), np.float32).astype(np.float16)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
