"""Measures and a filter from the file to the batch: a dataset made by the stages of a job."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import pipeline
from pipeline.config.job import MEASURES, JobConfig
from pipeline.dataset.side_columns import clip_columns
from pipeline.decode.measures.measures import measure
from pipeline.operations.report.page import report
from pipeline.operations.stats import stats
from pipeline.operations.verify.verify import verify
from pipeline.reading.columns import Columns
from pipeline.reading.token_dataset import TokenDataset
from pipeline.records import Sample
from pipeline.stages.decode import open_decoder
from pipeline.storage.store import Store
from tests.pipeline.fakes import FSQ
from tests.pipeline.tokenized import VIDEOS, tokenized

HIKER = VIDEOS / "hiker_tiny.mp4"


def job(folder: Path, output: str, **clip: Any) -> JobConfig:
    shape = {"frames": 5, "height": 64, "width": 64, "fps": 4.0, "short": "pad"}
    values = {
        "source": {"uri": [str(folder / "in")]},
        "clip": shape | clip,
        "tokenizers": [{"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"}],
        "output": {"uri": str(folder / output)},
    }
    return JobConfig.model_validate(values)


def table(store: Store) -> pa.Table:
    parts = [pq.read_table(Path(store.uri) / p.path) for p in pipeline.open(store.uri).parts()]
    return pa.concat_tables(parts).sort_by("clip_id")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("measured")
    (folder / "in").mkdir()
    shutil.copy(HIKER, folder / "in/hiker.mp4")
    return folder


def test_a_measured_and_filtered_dataset(folder: Path) -> None:
    config = job(folder, "out", measure=list(MEASURES), filter="motion > 1 and luma < 0.57")
    store, bare = tokenized(config), tokenized(job(folder, "bare"))
    rows, all_rows = table(store), table(bare)
    assert 0 < rows.num_rows < all_rows.num_rows

    expected = {}
    identity = config.clip.identity()
    sample = Sample(key="hiker.mp4", video=str(HIKER), video_name="hiker.mp4")
    with open_decoder(identity, config.decode) as decoder:
        for clip, frames in decoder.decode(sample, rows["unit"][0].as_py()):
            assert frames is not None
            own = clip.num_frames - clip.padded_frames
            expected[clip.clip_id] = measure(frames, MEASURES, own)
            assert clip.side == expected[clip.clip_id]
    assert {tuple(each) for each in expected.values()} == {MEASURES}
    kept = {i: v for i, v in expected.items() if v["motion"] > 1 and v["luma"] < 0.57}
    assert rows.select(["clip_id", *MEASURES]).to_pylist() == [
        {"clip_id": name, **values} for name, values in sorted(kept.items())
    ]
    assert rows.schema.field("phash").type == pa.int64()
    assert rows.schema.field("motion").type == pa.float32()
    assert all_rows.schema.names == [n for n in rows.schema.names if n not in MEASURES]
    same = all_rows.filter(pa.compute.is_in(all_rows["clip_id"], rows["clip_id"]))
    assert same["fsq"].to_pylist() == rows["fsq"].to_pylist()

    [unit] = pipeline.open(store.uri).manifest.units()
    still = sum(v["motion"] <= 1 for v in expected.values())
    assert unit.dropped == {
        "motion > 1": still,
        "luma < 0.57": len(expected) - still - len(kept),
    }
    assert min(unit.dropped.values()) > 0
    assert unit.counts.clips_filtered == len(expected) - len(kept)

    snapshot = pipeline.open(store.uri)
    [batch] = list(TokenDataset(snapshot, ["clip_id", "motion", "phash"], 64, shuffle=False))
    for n, name in enumerate(batch["clip_id"]):
        assert batch["motion"][n] == expected[name]["motion"]
        assert batch["phash"][n] == expected[name]["phash"]
    assert batch["motion"].dtype == torch.float64
    assert batch["phash"].dtype == torch.int64
    assert verify(store).findings == []

    found = stats(store)
    [line] = [line for line in found.lines() if line.startswith("motion ")]
    bins = json.loads(json.dumps(found.to_dict()))["all"]["measures"]
    assert set(bins) == set(MEASURES) - {"phash"}
    motions = np.array([values["motion"] for values in kept.values()])
    wanted = {"1": 0, "2": np.sum(motions <= 2), "3": np.sum((motions > 2) & (motions <= 3))}
    assert bins["motion"] == {f"{float(k)}": n for k, n in wanted.items() if n}
    assert line.split(maxsplit=1)[1] == " · ".join(f"≤ {k}: {n}" for k, n in wanted.items() if n)
    page = "\n".join(report(store).lines())
    assert f"- motion: {line.split(maxsplit=1)[1]}" in page
    assert f"| motion > 1 | {still} | a rule of clip.filter |" in page


def test_numbers_that_are_null_are_nan_in_a_batch() -> None:
    columns = Columns([FSQ], ["luma", "phash"], side=clip_columns({"measure": ["luma", "phash"]}))
    for values in ([None, 0.5], [0.5, None], [None, None], [0.25, 0.5]):
        hashes = [None if value is None else 7 for value in values]
        rows = columns.rows(
            pa.table(
                {"luma": pa.array(values, pa.float32()), "phash": pa.array(hashes, pa.int64())}
            ),
            {},
        )
        batch = columns.batch([(rows, 0), (rows, 1)])
        expected = [torch.nan if value is None else value for value in values]
        np.testing.assert_array_equal(batch["luma"].numpy(), expected)
        assert batch["luma"].dtype == torch.float64
        assert batch["phash"].tolist() == [-1 if value is None else 7 for value in values]


def test_measures_are_columns_in_the_order_of_their_list() -> None:
    identity = job(Path("x"), "out", measure=["phash", "motion"]).clip.identity()
    assert [(c.name, c.type, c.holds) for c in clip_columns(identity)] == [
        ("motion", "float32", "number"),
        ("phash", "int64", "number"),
    ]


def test_windows_of_a_limited_sample_are_measured(folder: Path) -> None:
    shape = {"fps": [4.0, 8.0], "max_per_sample": 2, "stride_s": 0.5}
    config = job(folder, "out", measure=["luma"], **shape)
    sample = Sample(key="hiker.mp4", video=str(HIKER), video_name="hiker.mp4")
    with open_decoder(config.clip.identity(), config.decode) as decoder:
        clips = [
            (clip.side, frames)
            for clip, frames in decoder.decode(sample, "u")
            if frames is not None
        ]
    assert [side["fps"] for side, _ in clips].count(8.0) == 2
    for side, frames in clips:
        assert side["luma"] == measure(frames, ["luma"])["luma"]
