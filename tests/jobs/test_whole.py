"""A job whose clips are whole videos: over Ray, with a narrow v1.1 model."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.dataset.manifest import read_manifest
from pipeline.job import graph
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.assets import HIKER, ONE_FRAME, TEN_BITS, VFR
from tests.jobs import saboteurs
from tests.jobs.conftest import committed_rows, job, pack, tokenized
from vidtok.presets import PRESETS

VIDEOS = (HIKER, TEN_BITS[0], VFR, ONE_FRAME)


def test_whole_videos_are_rows_of_their_own_length(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars = pack(tmp_path / "tars", [asset.path for asset in VIDEOS], per_tar=2)
    config = job(
        tars,
        tmp_path / "out",
        clip={"whole": True, "chunk_frames": 8, "height": 16, "width": 16, "fps": 8.0},
        tokenizers=[{"name": "kl", "model": "vidtok_kl_causal_488_4chn_v1_1", "weights": "random"}],
    )
    [spec] = config.tokenizers
    monkeypatch.setitem(PRESETS, spec.model, saboteurs.narrow(spec.model))
    monkeypatch.setattr(graph, "TokenizeWorker", saboteurs.Narrow)
    summary = tokenized(config)
    assert summary.total.counts.clips_written == len(VIDEOS)
    rows = committed_rows(tmp_path / "out")
    found = {row["key"]: (row["num_frames"], row["kl_shape"]) for row in rows.to_pylist()}
    assert found == {
        asset.path.stem: (asset.picks_at_8_fps, [4, -(-asset.picks_at_8_fps // 4), 2, 2])
        for asset in VIDEOS
    }
    store = Store(str(tmp_path / "out"))
    assert {part.bucket for part in read_manifest(store).parts()} == {"allx16x16"}
    checked = verify(store, retokenize=2)
    assert (checked.findings, checked.clips_retokenized, checked.rows_checked) == (
        [],
        2,
        len(VIDEOS),
    )
    assert "all frames of 16×16" in (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert pq.read_table(next((tmp_path / "out/data").glob("*/*"))).schema.field("num_frames")
