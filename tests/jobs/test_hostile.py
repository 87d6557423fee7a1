"""Jobs over input made to harm, whose metrics add up."""

import gzip
import io
import os
import pickle
import resource
import tarfile
from pathlib import Path

from pipeline.config.source import VideoSource
from pipeline.dataset.manifest import read_manifest
from pipeline.quarantine import Quarantined
from pipeline.records import WorkUnit
from pipeline.sources.reader import SampleReader
from pipeline.storage.store import Store
from tests.jobs.conftest import VIDEOS, committed_rows, job, tokenized
from tests.jobs.exported_metrics import check_metrics
from tests.pipeline.tars import make_tar

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


def test_names_and_pickles_of_a_tar_reach_nothing_and_metrics_count_the_rest(
    cluster: str, tmp_path: Path
) -> None:
    fence = tmp_path / "fence"
    fence.mkdir()
    unpickled = tmp_path / "unpickled"
    members = []
    for name in NAMES:
        members.append((f"{name}.mp4", VIDEO))
        members += [(f"{name}.{end}", pickle.dumps(Bomb(unpickled))) for end in ("pkl", "pyd")]
    tar = fence / "%2e%2e%2F..%2Fshard $(touch x);.tar"
    tar.write_bytes(make_tar(members))
    output = fence / "out"
    broken = fence / "broken.mp4"
    broken.write_bytes(b"not a video")
    check_metrics(output, tokenized(job([str(tar), str(broken)], output)).run)
    rows = committed_rows(output)
    assert set(rows["key"].to_pylist()) == set(NAMES)
    assert not unpickled.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fence"]
    assert sorted(path.name for path in fence.iterdir()) == [
        *(tar.name, broken.name, "out"),
    ]
    for part in read_manifest(Store(str(output))).parts():
        assert (output / part.path).resolve().is_relative_to(output.resolve())
        assert part.path.isascii()
        assert not set(part.path) & set(" $;%\\\n'\"*")


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
