"""Jobs that take seconds on the Ray cluster of the session."""

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config.job import JobConfig
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.job.driver import run
from pipeline.job.summary import Summary
from pipeline.storage.store import Store
from tests.jobs.saboteurs import MARKS

ROOT = Path(__file__).parents[2]
VIDEOS = ROOT / "tests/data/videos"

JOB: dict[str, Any] = {
    "clip": {"frames": 5, "height": 32, "width": 40, "fps": 8.0},
    "tokenizers": [
        {"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny", "batch": 4},
        {"name": "kl", "model": "vidtok_kl_causal_488_8chn_tiny", "batch": 4, "logvar": True},
    ],
    "decode": {"actors": 1},
    "tokenize": {"actors": 1},
    "commit": {"log_every_s": 0.1},
}
"""Clips so small that starting the actors is what takes time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ray)


def job(source: str | Sequence[str], output: str | Path, **changes: Any) -> JobConfig:
    """Return a small job; `changes` are keys such as `decode__actors`."""
    values: dict[str, Any] = {
        **{key: dict(part) if isinstance(part, dict) else part for key, part in JOB.items()},
        "source": {"uri": source if isinstance(source, str) else list(source)},
        "output": {"uri": str(output)},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            values.setdefault(section, {})[key] = value
        else:
            values[section] = value
    return JobConfig.model_validate(values)


class Silence:
    """A `Progress` that remembers what was said, and does one of `acts` each time clips come."""

    def __init__(self, *acts: Callable[[], None]) -> None:
        self.said: list[str] = []
        self._acts = list(acts)

    def say(self, text: str) -> None:
        self.said.append(text)

    def clips(self, count: int) -> None:
        if self._acts and count:
            self._acts.pop(0)()

    def begin(self, units: int) -> None: ...
    def unit(self, *, failed: bool) -> None: ...
    def tick(self) -> None: ...
    def end(self) -> None: ...


def tokenized(config: JobConfig, *acts: Callable[[], None]) -> Summary:
    """Run a job that has to come out balanced."""
    summary = run(config, Silence(*acts))
    assert summary.exit_code == 0, summary.lines()
    return summary


def committed_rows(output: str | Path | Store) -> pa.Table:
    """Return the rows of all committed parts, sorted by clip."""
    store = output if isinstance(output, Store) else Store(str(output))
    manifest = read_manifest(store)
    tables: list[pa.Table] = []
    for part in manifest.parts():
        with open_parquet(store, part.path) as parquet:
            found = list(unit_rows(parquet, part))
        assert sum(rows.num_rows for rows in found) == part.rows
        tables += found
    rows = pa.concat_tables(tables)
    assert len(set(rows["clip_id"].to_pylist())) == rows.num_rows, "a clip is there twice"
    return rows.sort_by([("key", "ascending"), ("clip_index", "ascending")])


def of_units(rows: pa.Table, some: pa.Table) -> pa.Table:
    """Return the rows of the units that `some` has rows of."""
    units = pa.array(sorted(set(some["unit"].to_pylist())))
    return rows.filter(pa.compute.is_in(rows["unit"], units))


def content(rows: pa.Table) -> pa.Table:
    """Return rows without what names the work unit."""
    return rows.drop_columns(["clip_id", "unit"])


def pack(folder: Path, videos: Sequence[Path], per_tar: int) -> list[str]:
    """Write videos into tars, with a caption each; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    tars = []
    for start in range(0, len(videos), per_tar):
        path = folder / f"shard-{start // per_tar:03d}.tar"
        with tarfile.open(path, "w", dereference=True) as tar:
            for video in videos[start : start + per_tar]:
                tar.add(video, arcname=video.name)
                caption = path.with_suffix(".txt")
                caption.write_text(f"about {video.stem}")
                tar.add(caption, arcname=f"{video.stem}.txt")
                caption.unlink()
        tars.append(str(path))
    return tars


def sound_videos() -> list[Path]:
    """A dozen short real videos, one of each kind that decodes whole."""
    names = [
        "hiker_tiny.mp4",
        "odd/120fps_64x36.mp4",
        "odd/av1_video.mkv",
        "odd/h264_10bits.mp4",
        "odd/mpeg1.mpg",
        "odd/odd_321x243.mp4",
        "odd/theora.ogv",
        "odd/vfr.mp4",
        "odd/video_180.mov",
        "odd/video_90.mov",
    ]
    return [VIDEOS / name for name in names]


@pytest.fixture(scope="session")
def undisturbed(
    cluster: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[str], pa.Table]:
    """Tars of three videos each, and the rows that an undisturbed run makes of them."""
    folder = tmp_path_factory.mktemp("undisturbed")
    tars = pack(folder / "tars", sound_videos(), per_tar=3)
    output = output_of(tars)
    tokenized(job(tars, output.uri, tokenize__decode_back_one_in=1))
    return tars, committed_rows(output)


def output_of(tars: Sequence[str]) -> Store:
    """Return the output of the undisturbed run."""
    return Store(str(Path(tars[0]).parents[1] / "out"))


@pytest.fixture
def marks(tmp_path: Path, cluster: str) -> Path:
    """The folder that saboteurs of a job with the output `tmp_path / "out"` write notes into."""
    folder = tmp_path / MARKS
    folder.mkdir()
    return folder
