"""A source that was mended: the next run does its unit again, and that unit only."""

from pathlib import Path

from pipeline.dataset.manifest import read_manifest
from pipeline.job.driver import run
from pipeline.operations.retry import retry
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


def test_a_mended_file_is_taken_in_by_the_next_run(cluster: str, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for n, video in enumerate(sound_videos()[:4]):
        (folder / f"{n}{video.suffix}").write_bytes(video.read_bytes())
    broken = folder / f"1{sound_videos()[1].suffix}"
    whole = broken.read_bytes()
    broken.write_bytes(b"not a video")
    config = job(str(folder), tmp_path / "out", source__files_per_unit=2)
    assert tokenized(config).total.counts.samples_quarantined == 1
    store = Store(str(tmp_path / "out"))
    [reason] = read_manifest(store).reasons()
    assert run(config, Silence()).nothing_to_do

    broken.write_bytes(whole)
    assert len(retry(store, [reason]).units) == 1
    again = tokenized(config)
    assert (again.planned, again.committed_before, again.done.units) == (2, 1, 1)
    assert not again.nothing_to_do
    assert again.total.counts.samples_quarantined == 0
    assert read_manifest(store).reopened == set()
    assert run(config, Silence()).nothing_to_do

    tokenized(job(str(folder), tmp_path / "other", source__files_per_unit=2))
    assert content(committed_rows(store)).equals(content(committed_rows(tmp_path / "other")))
    assert verify(store).findings == []
