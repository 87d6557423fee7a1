"""Parts are merged and a unit is reopened while jobs write: rows and tokens stay the same."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.tally import Tally
from pipeline.job.driver import run
from pipeline.operations.compact import compact
from pipeline.operations.retry import retry
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import (
    Silence,
    committed_rows,
    job,
    output_of,
    sound_videos,
    tokenized,
)
from tests.pipeline.in_process import without_ray


def test_merged_and_reopened_during_a_job_and_between_its_runs(
    undisturbed: tuple[list[str], pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is a folder: its tokens must be those of the same videos in tars.

    The driver merges parts between rows, and its workers need no Ray for that.
    """
    without_ray(monkeypatch)
    folder = tmp_path / "videos"
    folder.mkdir()
    videos = sound_videos()
    for video in videos:
        (folder / video.name).write_bytes(video.read_bytes())
    broken = folder / videos[1].name
    whole = broken.read_bytes()
    broken.write_bytes(b"not a video")
    store = Store(str(tmp_path / "out"))
    config = job(str(folder), store.uri, source__files_per_unit=4, commit__log_every_s=0.01)
    first = tokenized(config, *[lambda: compact(store)] * 20)
    assert (first.planned, first.total.counts.samples_quarantined) == (3, 1)
    compact(store)
    assert len({part.path for part in read_manifest(store).parts()}) == 1
    assert run(config, Silence()).nothing_to_do

    [reason] = Tally.of(read_manifest(store)).reasons
    [unit] = retry(store, [reason]).reopened
    broken.write_bytes(whole)
    second = tokenized(config, *[lambda: compact(store)] * 20)
    assert (second.planned, second.committed_before, second.done.units) == (3, 2, 1)
    assert not second.nothing_to_do
    assert second.total.counts.samples_quarantined == 0
    assert read_manifest(store).reopened == set()
    assert run(config, Silence()).nothing_to_do
    [done] = (record for record in read_manifest(store).units() if record.unit == unit)
    assert done.quarantine is None
    assert all(part.place is None for part in done.parts)
    assert compact(store).rows_left_out > 0
    vacuum(store, older_than_hours=0, delete=True)
    assert verify(store).findings == []

    # Nor does another packing of the videos change a bit, or decoding back the fingerprint.
    tars, rows = undisturbed
    assert read_dataset(store).fingerprint == read_dataset(output_of(tars)).fingerprint
    assert Tally.of(read_manifest(store)).total.psnr == {}
    found = _tokens(committed_rows(store))
    assert found == _tokens(rows)
    assert len({name for name, _ in found}) > 6


def _tokens(rows: pa.Table) -> dict[tuple[str, int], list[object]]:
    columns = ("fsq", "kl", "kl_logvar", "start_s", "end_s", "crop")
    return {
        (Path(row["key"]).stem, row["clip_index"]): [row[column] for column in columns]
        for row in rows.to_pylist()
    }
