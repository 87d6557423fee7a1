"""One clip at several sizes and rates: every operation takes the shape of the column."""

import json
import re
import tarfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

import pipeline
from pipeline.config.job import JobConfig
from pipeline.dataset.card import write_card
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import Dataset, read_dataset
from pipeline.dataset.part_reader import open_parquet
from pipeline.dataset.row_sampling import draw_rows
from pipeline.dataset.tally import Tally
from pipeline.operations.export.export import export
from pipeline.operations.findings import Finding
from pipeline.operations.plan.plan import plan_job
from pipeline.operations.recompute import Recomputer
from pipeline.operations.report.page import report
from pipeline.operations.show import show_clip, show_picture
from pipeline.operations.verify.cell_check import check_cells
from pipeline.operations.verify.verify import verify
from pipeline.reading import TokenDataset
from pipeline.storage.store import Store
from pipeline.tokenizers.identity import expected_shape
from tests.assets import HIKER
from tests.pipeline.tokenized import tokenized

FSQ, KL = "vidtok_fsq_causal_488_262144_tiny", "vidtok_kl_causal_488_8chn_tiny"
SPECS = [
    {"name": "full", "model": FSQ},
    {"name": "half", "model": KL, "scale": "1/2", "dtype": "uint8"},
    {"name": "slow", "model": FSQ, "every": 2},
    {"name": "third", "model": KL, "scale": "1/3", "every": 2, "logvar": True},
]
SHAPES = {"full": [3, 6, 12], "half": [8, 3, 3, 6], "slow": [2, 6, 12], "third": [8, 2, 2, 4]}
BUCKET, FRAMES = "9x48x96", 9


def job(folder: Path, out: str) -> JobConfig:
    return JobConfig.model_validate(
        {
            "source": {"uri": [str(HIKER.path)]},
            "clip": {"frames": FRAMES, "height": 48, "width": 96, "fps": 8.0},
            "tokenizers": SPECS,
            "output": {"uri": str(folder / out)},
            "tokenize": {"decode_back_one_in": 1},
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scales")


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    """Clips of the hiker, each in four columns; tests must not write to it."""
    return tokenized(job(folder, "out"))


@pytest.fixture(scope="module")
def dataset(store: Store) -> Dataset:
    return read_dataset(store)


def rows_of(store: Store) -> list[dict[str, Any]]:
    [part] = read_manifest(store).parts()
    with open_parquet(store, part.path) as parquet:
        rows: list[dict[str, Any]] = parquet.read().to_pylist()
    return rows


def test_rows_and_metadata_say_what_each_column_got(store: Store, dataset: Dataset) -> None:
    for row in rows_of(store):
        assert {name: row[f"{name}_shape"] for name in SHAPES} == SHAPES
        assert row["num_frames"] == FRAMES
    for column in dataset.tokenizers:
        assert expected_shape(dataset, column, BUCKET, FRAMES) == SHAPES[column.name]
    plain = dataset.schema.metadata
    assert b"vidtok.full.input" not in plain
    assert plain[b"vidtok.half.input"] == b"1/2"
    assert plain[b"vidtok.slow.input"] == b"every 2"
    assert plain[b"vidtok.third.input"] == b"1/3, every 2"


def test_verify_takes_the_rows_back_to_their_source(store: Store) -> None:
    result = verify(store, retokenize=1, decode=1)
    assert result.findings == []
    assert result.clips_retokenized == 1
    psnr = {sums for unit in read_manifest(store).units() for sums in unit.statistics}
    assert psnr == {BUCKET}
    total = Tally.of(read_manifest(store)).total
    assert total.psnr.keys() == result.psnr_db.keys() == SHAPES.keys()
    for name, values in result.psnr_db.items():
        assert min(values) > 10
        assert total.psnr[name].clips == total.clips


def test_verify_names_a_shape_of_the_whole_clip(store: Store, dataset: Dataset) -> None:
    [part] = read_manifest(store).parts()
    with open_parquet(store, part.path) as parquet:
        rows = parquet.read()
    half = dataset.tokenizers[1]
    shapes = [expected_shape(dataset, replace(half, scale=1), BUCKET, FRAMES)] * rows.num_rows
    [found] = check_cells(rows, half, shapes, "part")
    assert found.detail.endswith("half_shape [8, 3, 3, 6], the model gives [8, 3, 6, 12]")


def test_the_plan_counts_the_bytes_of_each_column(store: Store, folder: Path) -> None:
    cells = ("full", "half", "slow", "third", "third_logvar")
    size = sum(len(row[name]) for row in rows_of(store) for name in cells)
    found = plan_job(job(folder, "elsewhere"), seconds=30).estimates.cell_bytes
    assert found is not None
    assert found.value == size


def test_the_original_is_shown_as_each_column_got_it(store: Store, folder: Path) -> None:
    shown = show_clip(store, out=str(folder / "clip.mp4"))
    assert [re.sub(r" [0-9.]+ dB$", "", label) for label in shown.panels] == [
        "original",
        "full",
        "original 1/2",
        "half",
        "original every 2",
        "slow",
        "original 1/3, every 2",
        "third",
    ]
    assert f"{folder}/clip.mp4: original | full " in shown.lines()[-2]
    with av.open(str(shown.video)) as container:
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert frames.shape == (FRAMES, 48, 4 * 96 + 2 * 48 + 2 * 32, 3)
    picture = show_picture(store, str(folder / "clip.png"), clips=1)
    assert picture.psnr_db == shown.psnr_db
    with Image.open(picture.picture) as image:
        assert image.height == 4 * (48 + 4) + 2 * (24 + 4) + 2 * (16 + 4)


def test_panels_agree_with_the_clip(store: Store, dataset: Dataset) -> None:
    [drawn] = draw_rows(read_manifest(store), 1, seed=0)
    with closing(Recomputer(store, dataset, retokenize=False, decode=True)) as recomputer:
        [found] = recomputer.clips([drawn])
        assert not isinstance(found, Finding)
        panels = {one.label: one.frames for one in recomputer.decode(found).panels}
    clip = np.asarray(found.frames).astype(float)
    np.testing.assert_array_equal(panels["original"], clip)
    np.testing.assert_array_equal(panels["original every 2"][[0, 2, 8]], clip[[0, 2, 8]])
    np.testing.assert_array_equal(panels["original every 2"][[1, 3]], clip[[0, 2]])
    means = clip.reshape(FRAMES, 16, 3, 32, 3, 3).mean((2, 4))[::2]
    assert np.abs(panels["original 1/3, every 2"][::2] - means).max() <= 0.5 + 1e-4
    assert all(len(frames) == FRAMES for frames in panels.values())


def test_batches_have_the_shape_of_each_column(store: Store) -> None:
    data = TokenDataset(pipeline.open(store.uri), list(SHAPES), batch=2)
    for batch in data:
        found = {name: list(batch[name].shape[1:]) for name in SHAPES}
        assert found == SHAPES


def test_an_export_has_size_length_and_rate_of_its_column(store: Store, tmp_path: Path) -> None:
    expected = {"full": (9, 48, 96, 8.0), "half": (9, 24, 48, 8.0), "third": (5, 16, 32, 4.0)}
    for column, values in expected.items():
        done = export(store.uri, "webdataset", str(tmp_path / column), column=column)
        assert done.exit_code == 0
        [path] = (tmp_path / column / BUCKET).glob("*.tar")
        with tarfile.open(path) as tar:
            texts = [tar.extractfile(one) for one in tar if one.name.endswith(".json")]
            abouts = [json.loads(text.read()) for text in texts if text is not None]
        names = ("num_frames", "height", "width", "fps")
        assert {tuple(about[name] for name in names) for about in abouts} == {values}


def test_report_and_card_say_what_each_column_got(store: Store, folder: Path) -> None:
    lines = report(store).lines()
    assert f"| third | {KL} | latents (1/3, every 2) | float16 |" in lines
    assert f"| full | {FSQ} | indices | uint32 |" in lines
    other = Store(str(folder / "card"))
    write_card(other, read_dataset(store), Tally.of(read_manifest(store)))
    card = other.read("README.md").decode()
    assert f"| `slow` | {FSQ} | code indices of the clip at every 2 | uint32 | t h w |" in card
    assert f"| `full` | {FSQ} | code indices | uint32 | t h w |" in card
