"""Cost of forgetting many samples of a dataset of many units, and what its readers pay for it.

    python -m benchmarks.forget [--units 2000] [--samples 100] [--keys 1 1000 100000]

Each unit is one part of two clips for each sample, with small code indices. All times are CPU
seconds of this process, on a local disk.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

import pipeline
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.manifest import write_manifest
from pipeline.dataset.metadata import Dataset, new_dataset, open_dataset
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import Counts, UnitRecord
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.operations.compact import compact
from pipeline.operations.forget.forget import forget
from pipeline.operations.forget.requests import read_requests
from pipeline.reading import TokenDataset
from pipeline.storage.store import Store

_COLUMN = TokenizerColumn(
    name="fsq",
    kind="indices",
    dtype="uint16",
    axes=("t", "h", "w"),
    model="made",
    fingerprint="0" * 32,
    codebook_size=32768,
)
_FACTS = {"kind": "indices", "channels": 5, "codebook_size": 32768, "levels": [8] * 5}
_MADE = {"model": "made", "weights": "made", "config": {}, "facts": _FACTS}
_CLIP = {"frames": 17, "height": 64, "width": 64, "fps": 8.0, "short": "drop", "resize": "uint8"}


def main() -> None:
    """Print a table, one row for each number of keys."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--keys", type=int, nargs="+", default=[1, 1000, 100_000])
    options = parser.parse_args()
    print("| keys | forget, s | records | log, bytes | manifest, bytes | open, ms | epoch, s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(str(Path(folder) / "corpus"))
        keys = made(store, options.units, options.samples)
        random.Random(0).shuffle(keys)
        print(row(store, "0", 0.0, ()))
        start = 0
        for count in options.keys:
            log = set(store.list("log"))
            requests = read_requests(keys[start : start + count], ())
            seconds, result = cpu(lambda: forget(store, requests))  # noqa: B023
            assert result.samples == count
            start += count
            print(row(store, f"{count:,}", seconds, sorted({*store.list("log")} - log)))
        seconds, _ = cpu(lambda: compact(store))
        print(row(store, f"compact in {seconds:.1f} s", 0.0, ()))


def made(store: Store, units: int, samples: int) -> list[str]:
    """Write a dataset; return the keys of its samples."""
    identity = {"clip": _CLIP, "tokenizers": {"fsq": _MADE}}
    dataset = new_dataset((_COLUMN,), identity)
    open_dataset(store, dataset)
    log = CommitLog(store, fingerprint=dataset.fingerprint)
    records = [write_unit(store, dataset, f"shard-{n:06d}", samples) for n in range(units)]
    for start in range(0, units, 500):
        log.append(records[start : start + 500])
    write_manifest(store)
    return [f"shard-{unit:06d}/video-{n:05d}" for unit in range(units) for n in range(samples)]


def write_unit(store: Store, dataset: Dataset, unit: str, samples: int) -> UnitRecord:
    """Write a unit's part."""
    schema = clip_schema(dataset.tokenizers)
    keys = [f"{unit}/video-{n // 2:05d}" for n in range(2 * samples)]
    count = len(keys)
    values = {
        "clip_id": [f"{unit}/{key}/{n % 2}" for n, key in enumerate(keys)],
        "unit": [unit] * count,
        "key": keys,
        "clip_index": [n % 2 for n in range(count)],
        "start_s": [0.0] * count,
        "end_s": [2.0] * count,
        "source_fps": [24.0] * count,
        "source_height": [64] * count,
        "source_width": [64] * count,
        "crop": [[0.0, 0.0, 64.0, 64.0]] * count,
        "num_frames": [17] * count,
        "padded_frames": [0] * count,
        "caption": ["a short caption"] * count,
        "meta": [None] * count,
        "fsq": [np.full(320, n, "<u2").tobytes() for n in range(count)],
        "fsq_shape": [[5, 8, 8]] * count,
    }
    with PartWriter(store, schema, unit=unit, bucket="17x64x64") as writer:
        writer.add(pa.table(values, schema=schema))
        parts = writer.publish()
    counts = Counts(
        samples_read=samples, samples_with_clips=samples, clips_seen=count, clips_written=count
    )
    return UnitRecord(
        unit=unit,
        sources=(f"/in/{unit}.tar",),
        parts=parts,
        quarantine=None,
        counts=counts,
        reasons={},
        statistics={},
    )


def row(store: Store, name: str, seconds: float, records: list[str] | tuple[str, ...]) -> str:
    """Return a row of the table: what was done, its cost, and that of readers now."""
    size = sum(store.size(path) for path in records)
    manifest = store.size(store.list("manifest")[-1])
    opened = min(cpu(lambda: pipeline.open(store.uri).buckets)[0] for _ in range(3))
    snapshot = pipeline.open(store.uri)
    epoch, rows = cpu(
        lambda: sum(len(batch["fsq"]) for batch in TokenDataset(snapshot, ["fsq"], 64))
    )
    assert rows == len(snapshot)
    return (
        f"| {name} | {seconds:.1f} | {len(records)} | {size:,} | {manifest:,} | {1e3 * opened:.0f}"
        f" | {epoch:.1f} |"
    )


def cpu(work):  # type: ignore[no-untyped-def]
    """Return the CPU seconds of a call, and its result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


if __name__ == "__main__":
    main()
