"""A job over input made to harm and over broken videos, whose metrics add up.

Its clips have several shapes.
"""

import gzip
import io
import os
import pickle
import resource
import tarfile
from itertools import zip_longest
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from pipeline.config.job import JobConfig
from pipeline.config.source import VideoSource
from pipeline.dataset.log.manifest import read_manifest
from pipeline.job.summary import Summary
from pipeline.quarantine import REASONS, Quarantined
from pipeline.records import WorkUnit
from pipeline.sources.reader import SampleReader
from pipeline.storage.store import Store
from tests.assets import TEN_BITS, VIDTOK_EXAMPLE
from tests.jobs.conftest import VIDEOS, committed_rows, job, of_units, pack, tokenized
from tests.jobs.exported_metrics import check_metrics
from tests.pipeline.tars import make_tar
from tests.pipeline.tokenized import tokenized as tokenized_one_by_one

VIDEO = (VIDEOS / "hiker_tiny.mp4").read_bytes()
NAMES = [
    "../../up",
    "/tmp/absolute",
    "a\\b\\windows",
    "a/../../b",
    "line\nbreak",
    "\u202egnp",
    "x" * 180,
    "CON",
    "%2e%2e%2fencoded",
]


class Bomb:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (os.mkdir, (self.path,))


CLIP = {
    "fps": 8.0,
    "short": "drop",
    "buckets": [
        {"frames": 9, "height": 32, "width": 32},
        {"frames": 9, "height": 24, "width": 56},
        {"frames": 5, "height": 56, "width": 32},
    ],
}
BROKEN = sorted(path for path in (VIDEOS / "broken").iterdir() if path.suffix != ".m4a")


@pytest.fixture(scope="module")
def done(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """A folder with a fence, in which a job has run over a hostile tar; and its summary."""
    folder = tmp_path_factory.mktemp("hostile")
    fence = folder / "fence"
    fence.mkdir()
    unpickled = folder / "unpickled"
    members = []
    square, short = (asset.path.read_bytes() for asset in (VIDTOK_EXAMPLE, TEN_BITS[0]))
    for name, video in zip_longest(NAMES, [square, short], fillvalue=VIDEO):
        members.append((f"{name}.mp4", video))
        members += [(f"{name}.{end}", pickle.dumps(Bomb(unpickled))) for end in ("pkl", "pyd")]
    tar = fence / "%2e%2e%2F..%2Fshard $(touch x);.tar"
    tar.write_bytes(make_tar(members))
    tars = pack(
        tmp_path_factory.mktemp("broken") / "tars", [*BROKEN, VIDEOS / "hiker_tiny.mp4"], per_tar=6
    )
    # A tar that ends in the middle of a member as well.
    whole = Path(tars[-1]).read_bytes()
    Path(tars[-1]).write_bytes(whole[: len(whole) - len(whole) // 3])
    return folder, tokenized(_job([str(tar), *tars], fence / "out"))


def _job(tars: list[str], output: Path) -> JobConfig:
    return job(tars, output, clip=CLIP, decode__timeout_s=20.0)


def test_the_metrics_add_up(done: tuple[Path, Summary]) -> None:
    folder, summary = done
    check_metrics(folder / "fence/out", summary.run)


def test_names_and_pickles_of_a_tar_reach_nothing(done: tuple[Path, Summary]) -> None:
    folder, _ = done
    output = folder / "fence/out"
    rows = committed_rows(output)
    mine = rows.filter(pa.compute.invert(pa.compute.starts_with(rows["unit"], "shard-")))
    assert set(mine["key"].to_pylist()) == set(NAMES)
    assert [path.name for path in folder.iterdir()] == ["fence"], "nothing was unpickled"
    [tar, out] = sorted(path.name for path in output.parent.iterdir())
    assert (tar, out) == ("%2e%2e%2F..%2Fshard $(touch x);.tar", "out")
    for part in read_manifest(Store(str(output))).parts():
        assert (output / part.path).resolve().is_relative_to(output.resolve())
        assert part.path.isascii()
        assert not set(part.path) & set(" $;%\\\n'\"*")


def test_each_clip_lies_in_its_bucket_as_without_ray(
    done: tuple[Path, Summary], tmp_path: Path
) -> None:
    folder, _ = done
    output = Store(str(folder / "fence/out"))
    parts = read_manifest(output).parts()
    assert {part.bucket for part in parts} == {"9x32x32", "9x24x56", "5x56x32"}
    assert all(part.path.startswith(f"data/{part.bucket}/") for part in parts)
    [tar] = folder.glob("fence/*.tar")
    alone = committed_rows(tokenized_one_by_one(_job([str(tar)], tmp_path / "out")))
    assert of_units(committed_rows(output), alone).equals(alone)
    assert alone.num_rows > len(NAMES)


def test_every_broken_video_is_accounted_for(done: tuple[Path, Summary]) -> None:
    folder, summary = done
    counts = summary.total.counts
    assert counts.imbalance() is None
    assert counts.samples_read == len(BROKEN) + 1 + len(NAMES)

    store = Store(str(folder / "fence/out"))
    parts = read_manifest(store).quarantine_parts()
    rows = pa.concat_tables([pq.read_table(store.locate(p.path)) for p in parts]).to_pylist()
    quarantine = [row for row in rows if row["stage"] != "filter"]
    assert len(rows) - len(quarantine) == counts.samples_filtered
    assert {q["reason"] for q in quarantine} <= REASONS.keys()
    assert all(q["detail"] for q in quarantine)
    lost = {q["key"] for q in quarantine if q["clip_index"] is None}
    assert lost >= {"header_only", "random_bytes", "text", "zero_bytes", "truncated_no_moov"}
    assert "tar_truncated" in {q["reason"] for q in quarantine}
    assert sum(summary.total.reasons.values()) == len(quarantine)
    report = "\n".join(summary.lines())
    assert all(f" {reason}: " in report for reason in summary.total.reasons)

    session = ray.init(ignore_reinit_error=True).address_info["session_dir"]
    logs = "".join(path.read_text() for path in Path(session).glob("logs/worker-*.err"))
    assert all(f"quarantined {q['unit']}/{q['key']}" in logs for q in quarantine)


def test_a_compressed_tar_of_nothing_but_size_costs_no_memory(tmp_path: Path) -> None:
    """A hundred megabytes of zeros in a hundred kilobytes, as a sidecar and as a video."""
    path = tmp_path / "bomb.tar.gz"
    with (
        gzip.open(path, "wb", compresslevel=9) as file,
        tarfile.open(fileobj=file, mode="w") as tar,
    ):
        for name in ("a.json", "a.mp4", "b.mp4"):
            info = tarfile.TarInfo(name)
            info.size = len(VIDEO) if name == "b.mp4" else 100 << 20
            tar.addfile(info, io.BytesIO(VIDEO) if name == "b.mp4" else _Zeros())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = WorkUnit(unit="bomb-0123456789ab", tar_uri=str(path))
    [first, second] = SampleReader(VideoSource(uri=[str(path)], max_video_mb=1)).read(unit)
    assert isinstance(first, Quarantined)
    assert (first.key, first.reason, second.key) == ("a", "too_large", "b")
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 48 << 10


class _Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)
