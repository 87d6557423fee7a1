"""Rows that are left out of a part are left out by everything that reads rows of parts."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.log.forgotten import Forgotten, key_digest, source_digest
from pipeline.dataset.part_reader import locate_row, rows_by_group, rows_of, unit_rows
from pipeline.dataset.records import Counts, Part, RowSpan, state_of
from pipeline.operations.forget.forget import without_rows
from tests.pipeline.units import make_record

PART = Part(path="data/5x16x16/u-0-0.parquet", bucket="5x16x16", rows=1, bytes=1, sha256="0" * 64)


def opened(rows: int, group: int) -> pq.ParquetFile:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"n": range(rows)}), sink, row_group_size=group)
    return pq.ParquetFile(pa.BufferReader(sink.getvalue()))


def values(parquet: pq.ParquetFile, part: Part) -> list[int]:
    return [n for rows in unit_rows(parquet, part) for n in rows["n"].to_pylist()]


@given(
    rows=st.integers(1, 40),
    group=st.integers(1, 12),
    data=st.data(),
    rounds=st.lists(st.sets(st.integers(0, 39)), max_size=3),
)
def test_rows_that_are_left(
    rows: int, group: int, data: st.DataObject, rounds: Sequence[set[int]]
) -> None:
    first = data.draw(st.integers(0, rows - 1))
    count = data.draw(st.integers(1, rows - first))
    whole = replace(PART, rows=count, place=RowSpan(first_row=first, of_rows=rows))
    part: Part | None = replace(PART, rows=rows) if count == rows else whole
    parquet = opened(rows, group)
    left = list(range(first, first + count))
    for gone in rounds:
        assert part is not None
        lost = np.array([n in gone for n in left])
        part = without_rows(part, lost, rows)
        left = [n for n in left if n not in gone]
        if not left:
            assert part is None
            return
    assert part is not None
    assert values(parquet, part) == left
    assert rows_of(part, pa.array(range(rows))).to_pylist() == left
    groups = rows_by_group(parquet.metadata, part)
    for n, value in enumerate(left):
        index, row = locate_row(groups, n)
        table = parquet.read_row_group(groups[index].group)
        assert groups[index].of(table)["n"][row].as_py() == value


@pytest.mark.parametrize(
    "left_out", [[(8, 9)], [(2, 1)], [(5, 7), (1, 3)], [(1, 99)], [(0, 1 << 26)]]
)
def test_ranges_that_cannot_be_are_refused(left_out: list[tuple[int, int]]) -> None:
    place = RowSpan(first_row=0, of_rows=8, left_out=tuple(left_out))
    with pytest.raises(pa.ArrowInvalid, match="recorded 8"):
        rows_by_group(opened(8, 3).metadata, replace(PART, rows=6, place=place))


def test_digests_are_those_of_the_format() -> None:
    for found, data in (
        (key_digest("a/b"), b"key\0a/b"),
        (key_digest("a/b", "u"), b"unit\0u\0a/b"),
        (source_digest("/in/é.tar"), "source\0/in/é.tar".encode()),
    ):
        assert found == hashlib.sha256(data).hexdigest()[:32]


def test_what_is_forgotten() -> None:
    gone = Forgotten({key_digest("k"), key_digest("l", "u"), source_digest("/in/list.csv")})
    assert [gone.has("u", key) for key in ("k", "l", "m")] == [True, True, False]
    assert [gone.has("v", key) for key in ("k", "l", "m")] == [True, False, False]
    assert gone.has_source("/in/list.csv#rows=5-6")
    assert not gone.has_source("/in/list.csv.tar")
    assert gone.keys_of("v", ["/in/list.csv#rows=0-2"], ["x", "y"]) == {"x", "y"}
    assert gone.keys_of("v", ["/in/a.mp4", "/in/k"], ["k", "y"]) == {"k"}


def test_a_state_names_the_same_attempt_after_a_forget() -> None:
    record = make_record("u")
    changed = replace(record, parts=(), quarantine=None, counts=Counts(), reasons={})
    assert state_of(changed) == state_of(record)
    assert state_of(replace(record, timings={"decode": 2.0})) != state_of(record)
