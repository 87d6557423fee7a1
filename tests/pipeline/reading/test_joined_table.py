"""Columns of a Parquet table beside those of a dataset."""

import logging
import math
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import pipeline
from pipeline.errors import ConfigError
from pipeline.reading import Snapshot, TokenDataset, TokenMap, mix
from pipeline.storage.store import Store
from tests.pipeline.reading.siblings import cells_of, head, make_unit, write_sibling

COLUMNS = ["clip_id", "left", "score", "rank", "label"]


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    store = Store(str(tmp_path / "left"))
    units = {f"u-{n}": make_unit(f"u-{n}", 6) for n in range(2)}
    write_sibling(store, head("left"), units, row_group_bytes=700)
    return pipeline.open(store.uri)


def ids(snapshot: Snapshot) -> list[str]:
    rows = TokenMap(snapshot, ["clip_id"])
    return [rows[n]["clip_id"] for n in range(len(rows))]


def scores(names: list[str]) -> pa.Table:
    """Return a table in another order than the dataset's."""
    names = names[1::2] + names[::2]
    return pa.table(
        {
            "clip_id": pa.array(names, pa.string()),
            "score": pa.array([len(name) / 8 for name in names], pa.float32()),
            "rank": pa.array([int(name[-1]) for name in names], pa.int16()),
            "label": [["a", name] for name in names],
        }
    )


def write(path: Path, table: pa.Table) -> str:
    pq.write_table(table, path)
    return str(path)


def batches(snapshot: Any, columns: list[str]) -> list[dict[str, Any]]:
    return list(TokenDataset(snapshot, columns, 4, strands=1))


def test_a_row_for_each_clip(
    snapshot: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    joined = snapshot.join(write(tmp_path / "scores.parquet", scores(ids(snapshot))))
    assert len(joined) == 12
    assert not caplog.messages
    seen = []
    for batch in batches(joined, COLUMNS):
        assert (batch["score"].dtype, batch["rank"].dtype) == (torch.float64, torch.int64)
        for n, clip in enumerate(batch["clip_id"]):
            assert batch["left"][n].tolist() == cells_of("left", clip).tolist()
            assert (batch["score"][n], batch["rank"][n]) == (len(clip) / 8, int(clip[-1]))
            assert batch["label"][n] == ["a", clip]
            seen.append(clip)
    assert sorted(seen) == sorted(ids(snapshot))
    assert TokenMap(joined, ["rank"])[3]["rank"] == int(ids(snapshot)[3][-1])


def test_clips_without_a_row_have_null_and_are_counted(
    snapshot: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = ids(snapshot)
    uri = write(tmp_path / "scores.parquet", scores([*known[4:], "u-9/k/0"]))
    with caplog.at_level(logging.WARNING):
        joined = snapshot.join(uri)
    [missing] = joined.missing
    assert (missing.clips_here, missing.clips_there) == (4, 1)
    assert caplog.messages == [
        f"join: 4 clips without a row in {uri}; 1 row of it without a clip",
    ]
    without = 0
    for batch in pickle.loads(pickle.dumps(TokenDataset(joined, COLUMNS, 1))):
        assert batch["rank"].dtype == torch.float64, "in every batch, whether it has gaps or not"
        if batch["clip_id"][0] in known[:4]:
            assert math.isnan(batch["score"])
            assert math.isnan(batch["rank"])
            assert batch["label"] == [None]
            without += 1
        else:
            assert batch["rank"] == int(batch["clip_id"][0][-1])
    assert without == 4


def test_one_row_for_all_clips_of_a_sample(snapshot: Snapshot, tmp_path: Path) -> None:
    store = Store(str(tmp_path / "one"))
    write_sibling(store, head("left"), {"u-0": make_unit("u-0", 6)})
    one = pipeline.open(store.uri)
    table = pa.table({"key": ["k2", "k0", "k1"], "split": ["c", "a", "b"]})
    uri = write(tmp_path / "splits.parquet", table)
    for batch in batches(one.join(uri, on="key"), ["key", "split"]):
        assert batch["split"] == ["abc"[int(key[1])] for key in batch["key"]]
    # In two units there are samples of these keys, which the table does not tell apart.
    with pytest.raises(ConfigError, match=r"samples of several units have the key 'k[0-2]': use"):
        snapshot.join(uri, on="key")


def test_a_table_of_two_datasets(snapshot: Snapshot, tmp_path: Path) -> None:
    right = Store(str(tmp_path / "right"))
    write_sibling(right, head("right"), {"u-1": make_unit("u-1", 5)})
    uri = write(tmp_path / "scores.parquet", scores(ids(snapshot)))
    for joined in (
        snapshot.join(pipeline.open(right.uri)).join(uri, prefix="my_"),
        snapshot.join(uri, prefix="my_").join(pipeline.open(right.uri)),
    ):
        assert len(joined) == 5
        for batch in batches(joined, ["right", "clip_id", "my_rank"]):
            for n, clip in enumerate(batch["clip_id"]):
                assert batch["right"][n].tolist() == cells_of("right", clip).tolist()
                assert batch["my_rank"][n] == int(clip[-1])


def test_a_state_of_another_table_is_refused(snapshot: Snapshot, tmp_path: Path) -> None:
    uri = write(tmp_path / "scores.parquet", scores(ids(snapshot)))
    state = TokenDataset(snapshot.join(uri), COLUMNS, 4).state_dict()
    TokenDataset(snapshot.join(uri), COLUMNS, 4).load_state_dict(state)
    write(tmp_path / "scores.parquet", scores(ids(snapshot)[1:]))
    with pytest.raises(ConfigError, match="state: fingerprint = "):
        TokenDataset(snapshot.join(uri), COLUMNS, 4).load_state_dict(state)


@pytest.mark.parametrize(
    ("table", "options", "text"),
    [
        (
            {"clip_id": ["a", "b", "a"], "x": [1, 2, 3]},
            {},
            r"1 value of clip_id in more than one row, such as 'a'",
        ),
        ({"clip_id": [1, 2], "x": [1, 2]}, {}, r"column clip_id is int64: must be string"),
        ({"x": [1]}, {}, r"no column clip_id; columns: x"),
        ({"clip_id": ["a"], "left": [1]}, {}, r"both sides of the join have left; give prefix"),
        ({"clip_id": ["a"], "caption": ["b"]}, {}, r"both sides of the join have caption"),
        ({"clip_id": ["a"]}, {"on": "unit"}, r"on = 'unit': must be clip_id or key"),
    ],
)
def test_tables_that_cannot_be_joined(
    snapshot: Snapshot, tmp_path: Path, table: dict[str, Any], options: Any, text: str
) -> None:
    uri = write(tmp_path / "scores.parquet", pa.table(table))
    with pytest.raises(ConfigError, match=text):
        snapshot.join(uri, **options)


def test_files_that_are_no_tables(snapshot: Snapshot, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.parquet: no such file"):
        snapshot.join(str(tmp_path / "none.parquet"))
    with pytest.raises(ConfigError, match=r"is a folder, not a file; give a Parquet file, or pip"):
        snapshot.join(snapshot.store.uri)
    (tmp_path / "text.parquet").write_text("text")
    with pytest.raises(ConfigError, match=r"text.parquet: not a Parquet table: ArrowInvalid"):
        snapshot.join(str(tmp_path / "text.parquet"))


def test_an_empty_table(snapshot: Snapshot, tmp_path: Path) -> None:
    uri = write(tmp_path / "scores.parquet", scores([]))
    joined = snapshot.join(uri)
    assert joined.missing[0].clips_here == len(joined) == 12
    assert all(batch["rank"].isnan().all() for batch in batches(joined, ["rank"]))


def test_a_column_cannot_have_the_name_of_a_value_of_the_batch(
    snapshot: Snapshot, tmp_path: Path
) -> None:
    names = ids(snapshot)
    own = ["bucket", "position", "source"]
    table = pa.table({"clip_id": names, **{name: ["mine"] * len(names) for name in own}})
    uri = write(tmp_path / "own.parquet", table)
    joined, renamed = snapshot.join(uri), snapshot.join(uri, prefix="my_")
    for read in (partial(TokenDataset, batch=4), TokenMap):
        with pytest.raises(ConfigError, match="columns: bucket: is also the name of a value"):
            read(joined, ["bucket"])
        assert next(iter(read(renamed, ["my_bucket"])))["my_bucket"][0] in ("mine", "m")
    with pytest.raises(ConfigError, match=r"columns: position: .*; rename the column: join its"):
        TokenDataset(joined, ["clip_id", "position"], 4)
    assert next(iter(TokenDataset(joined, ["source"], 4)))["source"] == ["mine"] * 4
    with pytest.raises(ConfigError, match="columns: source: is also"):
        mix([TokenDataset(joined, ["source"], 4)], [1])


@pytest.mark.parametrize(
    ("values", "kind", "says"),
    [
        (lambda n: n and (1 << 60) + n, pa.int64(), "double, as some clips have no value: "),
        (lambda n: (1 << 63) + n, pa.uint64(), "int64: "),
    ],
)
def test_integers_that_would_not_stay_exact(
    snapshot: Snapshot, tmp_path: Path, values: Any, kind: pa.DataType, says: str
) -> None:
    names = ids(snapshot)
    held = [values(n) or None for n in range(len(names))]
    table = pa.table({"clip_id": names, "hash": pa.array(held, kind), "rank": range(len(names))})
    joined = snapshot.join(write(tmp_path / "hashes.parquet", table))
    assert sum(len(batch["rank"]) for batch in batches(joined, ["rank"])) == 12, "it is not read"
    with pytest.raises(ConfigError, match=f"column hash: does not fit {says}.*; store it as text"):
        batches(joined, ["hash"])
