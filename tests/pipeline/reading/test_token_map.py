"""Rows by number."""

import pickle
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import pipeline
from pipeline.errors import ConfigError
from pipeline.reading import Snapshot, TokenMap
from pipeline.reading.row_groups import RowGroups
from pipeline.storage.store import Store
from tests.pipeline.reading.worlds import write_units


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    store = Store(str(tmp_path_factory.mktemp("map") / "corpus"))
    write_units(store, 24, 9, 17)
    return pipeline.open(store.uri)


@pytest.fixture(scope="module")
def written(snapshot: Snapshot) -> list[dict[str, Any]]:
    files = [pq.read_table(snapshot.store.locate(part.path)) for part in snapshot.parts()]
    return [row for file in files for row in file.to_pylist()]


def is_row(found: dict[str, Any], row: dict[str, Any]) -> bool:
    cells = torch.frombuffer(bytearray(row["fsq"]), dtype=torch.uint16).reshape(row["fsq_shape"])
    return (found["clip_id"], found["start_s"], found["caption"]) == (
        row["clip_id"],
        row["start_s"],
        row["caption"],
    ) and torch.equal(found["fsq"], cells.long())


COLUMNS = ["clip_id", "fsq", "start_s", "caption"]


def test_every_row_in_the_order_of_commits(
    snapshot: Snapshot, written: list[dict[str, Any]]
) -> None:
    rows = TokenMap(snapshot, COLUMNS)
    assert len(rows) == len(written) == 50
    assert all(is_row(rows[n], row) for n, row in enumerate(written))
    assert is_row(rows[-1], written[-1])
    for beyond in (50, -51):
        with pytest.raises(IndexError, match=f"row {beyond} of 50"):
            rows[beyond]


@given(wanted=st.lists(st.integers(0, 49), max_size=20))
@settings(max_examples=20)
def test_several_rows(snapshot: Snapshot, written: list[dict[str, Any]], wanted: list[int]) -> None:
    found = TokenMap(snapshot, COLUMNS).__getitems__(wanted)
    assert [row["clip_id"] for row in found] == [written[n]["clip_id"] for n in wanted]
    assert all(is_row(row, written[n]) for row, n in zip(found, wanted, strict=True))


def test_a_row_group_is_read_once(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[str, int]] = []
    read = RowGroups.read

    def counted(self: RowGroups, part: Any, groups: Any) -> Any:
        reads.extend((part.path, group) for group in groups)
        return read(self, part, groups)

    monkeypatch.setattr(RowGroups, "read", counted)
    rows = TokenMap(snapshot, COLUMNS)
    rows.__getitems__(list(range(50)))
    assert len(reads) == len(set(reads)) > 10
    reads.clear()
    for n in range(50):
        rows[n]
    assert len(reads) == len(set(reads))


def test_one_bucket(snapshot: Snapshot) -> None:
    for bucket, count in snapshot.buckets.items():
        rows = TokenMap(snapshot, ["clip_id"], buckets=[bucket])
        assert len(rows) == count
        assert {rows[n]["bucket"] for n in range(count)} == {bucket}
    with pytest.raises(ConfigError, match=r"buckets = \['1x1x1'\]: must be some of"):
        TokenMap(snapshot, ["clip_id"], buckets=["1x1x1"])
    with pytest.raises(ConfigError, match=r"buckets = \[\]: must be some of"):
        TokenMap(snapshot, ["clip_id"], buckets=[])


def test_under_a_loader_with_processes_of_its_own(snapshot: Snapshot) -> None:
    rows = TokenMap(snapshot, ["clip_id", "fsq"], buckets=["5x16x16"])
    rows[0]
    pickle.loads(pickle.dumps(rows))
    loader = DataLoader(
        rows, batch_size=4, shuffle=True, num_workers=1, multiprocessing_context="spawn"
    )
    seen = [name for batch in loader for name in batch["clip_id"]]
    assert sorted(seen) == sorted(rows[n]["clip_id"] for n in range(len(rows)))


def test_nothing_to_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "corpus"))
    write_units(store)
    assert len(TokenMap(pipeline.open(store.uri), ["fsq"])) == 0
