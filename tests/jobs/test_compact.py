"""Parts are merged while a job writes more; the job, its retry and its next run go on as ever."""

from pathlib import Path

from pipeline.dataset.manifest import read_manifest
from pipeline.job.driver import run
from pipeline.operations.compact import compact
from pipeline.operations.retry import retry
from pipeline.operations.vacuum import vacuum
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import (
    Silence,
    committed_rows,
    content,
    job,
    sound_videos,
    tokenized,
)


def test_merged_during_a_job_and_between_its_runs(cluster: str, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for n, video in enumerate(sound_videos()[:6]):
        (folder / f"{n}{video.suffix}").write_bytes(video.read_bytes())
    broken = folder / f"1{sound_videos()[1].suffix}"
    whole = broken.read_bytes()
    broken.write_bytes(b"not a video")
    store = Store(str(tmp_path / "out"))
    config = job(str(folder), store.uri, source__files_per_unit=2, commit__log_every_s=0.01)
    tokenized(config, *[lambda: compact(store)] * 20)
    compact(store)
    assert len({part.path for part in read_manifest(store).parts()}) == 1
    assert run(config, Silence()).nothing_to_do

    [reason] = read_manifest(store).reasons()
    [unit] = retry(store, [reason]).units
    broken.write_bytes(whole)
    again = tokenized(config, *[lambda: compact(store)] * 20)
    assert (again.committed_before, again.done.units) == (2, 1)
    assert run(config, Silence()).nothing_to_do
    [done] = (record for record in read_manifest(store).units() if record.unit == unit)
    assert done.quarantine is None
    assert all(part.place is None for part in done.parts)
    assert compact(store).rows_left_out > 0
    vacuum(store, older_than_hours=0, delete=True)
    assert verify(store).findings == []

    tokenized(job(str(folder), tmp_path / "other", source__files_per_unit=2))
    assert content(committed_rows(store)).equals(content(committed_rows(tmp_path / "other")))
