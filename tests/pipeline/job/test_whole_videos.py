"""A job whose clips are whole videos, by its workers without Ray, with a narrow v1.1 model."""

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.dataset.log.manifest import read_manifest
from pipeline.operations.verify.verify import verify
from tests.assets import HIKER, ONE_FRAME, TEN_BITS, VFR
from tests.jobs.conftest import committed_rows, job, pack
from tests.pipeline.tokenized import tokenized
from vidtok.presets import PRESETS

VIDEOS = (HIKER, TEN_BITS[0], VFR, ONE_FRAME)


def test_whole_videos_are_rows_of_their_own_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars = pack(tmp_path / "tars", [asset.path for asset in VIDEOS], per_tar=2)
    config = job(
        tars,
        tmp_path / "out",
        clip={"whole": True, "chunk_frames": 8, "height": 16, "width": 16, "fps": 8.0},
        tokenizers=[{"name": "kl", "model": "vidtok_kl_causal_488_4chn_v1_1", "weights": "random"}],
    )
    [spec] = config.tokenizers
    monkeypatch.setitem(PRESETS, spec.model, replace(PRESETS[spec.model], ch=8))
    store = tokenized(config)
    rows = committed_rows(store)
    found = {row["key"]: (row["num_frames"], row["kl_shape"]) for row in rows.to_pylist()}
    assert found == {
        asset.path.stem: (asset.picks_at_8_fps, [4, -(-asset.picks_at_8_fps // 4), 2, 2])
        for asset in VIDEOS
    }
    assert {part.bucket for part in read_manifest(store).parts()} == {"allx16x16"}
    checked = verify(store, retokenize=2)
    assert (checked.findings, checked.clips_retokenized, checked.rows_checked) == (
        [],
        2,
        len(VIDEOS),
    )
    assert pq.read_table(next((tmp_path / "out/data").glob("*/*"))).schema.field("num_frames")
