"""Cost of the driver at growing numbers of units: plan, log, manifest and resume.

    python -m benchmarks.scale [--to 1000000]

Runs the real planner, commit log, manifest and resume on a listing of names without files, for
10^3, 10^4, … units of 1000 clips each; no video is read. Each size has its own process. Prints
seconds, peak memory, objects in the store and store calls. The last column is the growth from one
size to the next, as the exponent of the number of units: 1.0 is proportional.
"""

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from pipeline.config.source import VideoSource
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.log.committed import Committed
from pipeline.dataset.log.manifest import read_manifest, write_manifest
from pipeline.dataset.records import Counts, Part, UnitRecord
from pipeline.dataset.statistics import BucketStatistics, LatentSums, LevelCounts
from pipeline.job.remaining import subtract
from pipeline.records import unit_sources
from pipeline.sources.planning import plan_units
from pipeline.storage.store import Store

_CLIPS_PER_UNIT = 1000
_UNITS_PER_RECORD = 100
"""Units in a log record that is written every five seconds, at 20 units per second."""
_PER_FOLDER = 10_000
_CALLS = ("read", "open", "exists", "size", "list", "write", "put_if_absent", "stage", "delete")


class Names(AbstractFileSystem):
    """`names://<count>`: a bucket of that many tars in folders, which exist only as names."""

    protocol = "names"
    cachable = False

    def find(self, path: str, maxdepth: Any = None, withdirs: bool = False, **_: Any) -> list[str]:
        count = int(self._strip_protocol(path))
        return [
            f"{count}/part-{n // _PER_FOLDER:05}/shard-{n % _PER_FOLDER:05}.tar"
            for n in range(count)
        ]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        kind = "directory" if path.isdecimal() else "file"
        return {"name": path, "type": kind, "size": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=int, default=1_000_000, help="the largest number of units")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(_measure(asked.only, Path(folder))))
        return
    sizes = [10**n for n in range(3, 1 + round(math.log10(asked.to)))]
    found = [_in_own_process(size) for size in sizes]
    print("|".join(["", " units ", *(f" {size:,} " for size in sizes), " growth ", ""]))
    print("| --- " + "| ---: " * (len(sizes) + 1) + "|")
    for name in found[0]:
        values = [one[name] for one in found]
        shown = [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values]
        print("|".join(["", f" {name} ", *(f" {value} " for value in shown), _growth(values), ""]))


def _growth(values: list[float]) -> str:
    """Return the growth of the last step, as the exponent of the number of units."""
    before, last = values[-2:]
    return f" {math.log10(last / before):.2f} " if before > 0 and last > 0 else " "


def _in_own_process(units: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", "--only", str(units)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed.splitlines()[-1])


def _measure(units: int, folder: Path) -> dict[str, float]:
    fsspec.register_implementation("names", Names)
    store = Store(str(folder / "out"))
    calls = _count_calls()
    figures: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        figures[f"{name}, s"] = time.perf_counter() - began

    base = _peak_mib()
    with timed("plan"):
        plan = plan_units(VideoSource(uri=[f"names://{units}"]))
    assert len(plan) == units
    with timed("subtract an empty log"):
        assert len(subtract(plan, Committed())) == units
    log = CommitLog(store, fingerprint="f", run="scale")
    template = _record()
    began, written = time.perf_counter(), dict(calls)
    for start in range(0, units, _UNITS_PER_RECORD):
        log.append(
            replace(
                template,
                unit=unit.unit,
                sources=unit_sources(unit),
                parts=(replace(template.parts[0], path=f"data/17x256x256/{unit.unit}-0.parquet"),),
                statistics=_statistics(n),
            )
            for n, unit in enumerate(plan[start : start + _UNITS_PER_RECORD], start)
        )
    records = units // _UNITS_PER_RECORD
    figures["append one record of 100 units, ms"] = (time.perf_counter() - began) / records * 1000
    figures["store calls per record"] = (calls.total() - sum(written.values())) / records
    del log
    with timed("manifest from the whole log"):
        manifest = write_manifest(store)
    del manifest
    before = calls.total()
    with timed("resume: read the log, plan what is left"):
        log = CommitLog(store, fingerprint="f", run="again")
        assert subtract(plan, log.committed) == []
    figures["store calls of a resume"] = calls.total() - before
    with timed("open the dataset"):
        manifest = read_manifest(store)
    assert manifest.counts().clips_written == units * _CLIPS_PER_UNIT
    figures["driver's peak above its imports, MiB"] = _peak_mib() - base
    files = [path for path in Path(store.uri).rglob("*") if path.is_file()]
    figures["objects of log and manifest"] = len(files)
    figures["their size, MB"] = sum(path.stat().st_size for path in files) / 1e6
    manifests = [path for path in files if path.parent.name == "manifest"]
    figures["of that the manifest, MB"] = sum(path.stat().st_size for path in manifests) / 1e6
    return figures


def _record() -> UnitRecord:
    part = Part(
        path="data/17x256x256/drawn.parquet",
        bucket="17x256x256",
        rows=_CLIPS_PER_UNIT,
        bytes=20_000_000,
        sha256="0" * 64,
    )
    return UnitRecord(
        unit="",
        sources=(),
        parts=(part,),
        quarantine=None,
        counts=Counts(
            samples_read=100,
            samples_with_clips=100,
            clips_seen=_CLIPS_PER_UNIT,
            clips_written=_CLIPS_PER_UNIT,
        ),
        reasons={},
        timings={"decode": 100.5, "read": 3.25, "tokenize fsq": 80.125},
        statistics={},
    )


def _statistics(n: int) -> dict[str, BucketStatistics]:
    """Return random numbers of realistic size, different in each unit."""
    draw = random.Random(n).randrange
    kl = LatentSums(
        cells=1_280_000,
        sums=tuple(draw(1 << 44) for _ in range(16)),
        squares=tuple(draw(1 << 52) for _ in range(16)),
    )
    fsq = LevelCounts(counts=tuple(tuple(draw(1 << 18) for _ in range(8)) for _ in range(5)))
    return {
        "17x256x256": BucketStatistics(
            clips=_CLIPS_PER_UNIT,
            frames=17 * _CLIPS_PER_UNIT,
            microseconds=draw(1 << 31),
            captions=draw(_CLIPS_PER_UNIT),
            caption_characters=draw(1 << 17),
            lengths={32: _CLIPS_PER_UNIT},
            sides={side: draw(_CLIPS_PER_UNIT) for side in (480, 720, 1080)},
            rates={rate: draw(_CLIPS_PER_UNIT) for rate in (24, 25, 30, 60)},
            latents={"kl": kl},
            levels={"fsq": fsq},
        )
    }


def _count_calls() -> Counter[str]:
    """Count all following calls of any store."""
    calls: Counter[str] = Counter()

    def counted(name: str, method: Any) -> Any:
        def call(*args: Any, **more: Any) -> Any:
            calls[name] += 1
            return method(*args, **more)

        return call

    for name in _CALLS:
        setattr(Store, name, counted(name, getattr(Store, name)))
    return calls


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
