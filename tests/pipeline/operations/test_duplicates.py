import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import pipeline
from pipeline.config.job import JobConfig
from pipeline.errors import ConfigError
from pipeline.operations.duplicates import duplicates
from pipeline.reading import TokenDataset
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import sound
from tests.pipeline.tokenized import VIDEOS, tokenized


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One video twice, under two names, and another one."""
    folder = tmp_path_factory.mktemp("duplicates")
    (folder / "in").mkdir()
    for name, video in (("a", "hiker_tiny"), ("b", "vidtok_example"), ("c", "hiker_tiny")):
        shutil.copy(VIDEOS / f"{video}.mp4", folder / f"in/{name}.mp4")
    values = {
        "source": {"uri": [str(folder / "in")]},
        "clip": {"frames": 5, "height": 32, "width": 32, "fps": 4.0, "measure": ["phash"]},
        "tokenizers": [{"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"}],
        "output": {"uri": str(folder / "out")},
    }
    return tokenized(JobConfig.model_validate(values))


def hashes(store: Store) -> dict[str, int]:
    parts = [Path(store.uri) / name for name in store.list("data")]
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return {row["clip_id"]: row["phash"] for row in rows}


def bits(a: int, b: int) -> int:
    return ((a ^ b) & (2**64 - 1)).bit_count()


@pytest.mark.parametrize("distance", [0, 6, 12])
def test_every_clip_that_is_left_out_resembles_one_that_is_kept(
    corpus: Store, tmp_path: Path, distance: int
) -> None:
    found = duplicates(corpus, str(tmp_path / "near.parquet"), distance=distance)
    rows = pq.read_table(tmp_path / "near.parquet").to_pylist()
    by_id = hashes(corpus)
    left_out = {row["clip_id"] for row in rows if not row["kept"]}
    kept = by_id.keys() - left_out
    assert sorted(row["clip_id"] for row in rows) == sorted(by_id)
    assert (found.clips, found.repeats, found.rows) == (len(by_id), len(left_out), len(rows))
    assert found.groups == sum(row["kept"] and row["group_clips"] > 1 for row in rows) > 0
    sizes = Counter(row["resembles"] for row in rows)
    for row in rows:
        assert row["resembles"] in kept
        assert row["bits"] == bits(by_id[row["clip_id"]], by_id[row["resembles"]]) <= distance
        assert row["group_clips"] == sizes[row["resembles"]]
        assert row["kept"] == (row["resembles"] == row["clip_id"])
    alone = sorted(kept)
    assert all(
        bits(by_id[one], by_id[other]) > distance for one in alone for other in alone if one < other
    )


def test_the_table_joins_the_dataset(corpus: Store, tmp_path: Path) -> None:
    found = duplicates(corpus, str(tmp_path / "near.parquet"), distance=0)
    joined = pipeline.open(corpus.uri).join(str(tmp_path / "near.parquet"), on="clip_id")
    [batch] = list(TokenDataset(joined, ["clip_id", "kept", "resembles"], found.clips))
    assert batch["kept"].count(False) == found.repeats > 0
    pairs = zip(batch["clip_id"], batch["resembles"], batch["kept"], strict=True)
    assert all((clip == other) == kept for clip, other, kept in pairs)


def test_a_sample_of_which_nothing_is_kept_repeats_others(corpus: Store, tmp_path: Path) -> None:
    found = duplicates(corpus, str(tmp_path / "samples.parquet"), distance=0, samples=True)
    [row] = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert row["key"].startswith("c")
    assert row["clips"] == sum(f"/{row['key']}/" in name for name in hashes(corpus)) > 0
    assert (found.samples, found.repeated_samples, found.rows) == (3, 1, 1)
    assert "1 sample of 3 have only clips" in "\n".join(found.lines())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"out": "near.csv"}, r"--out near\.csv: is not a Parquet file"),
        ({"distance": 16}, r"--distance 16: must be in 0 … 15"),
    ],
)
def test_wrong_options(corpus: Store, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    options = {"out": str(tmp_path / "near.parquet"), "distance": 6} | changes
    with pytest.raises(ConfigError, match=says):
        duplicates(corpus, **options)


def test_a_dataset_without_hashes(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "corpus"))
    sound(store)
    with pytest.raises(ConfigError, match=r"has no column phash; .* phash in clip\.measure"):
        duplicates(store, str(tmp_path / "near.parquet"), distance=6)
