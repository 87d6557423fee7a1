"""Every faulty row of a unit, and of its quarantine, is found and named."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.records import UnitRecord
from pipeline.dataset.schema import QUARANTINE_SCHEMA
from pipeline.dataset.statistics import PsnrSums
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import (
    commit,
    with_column,
    with_rows,
    write_log,
)
from tests.pipeline.operations.verify.found import described, kinds, one
from tests.pipeline.units import deliver, parquet_bytes


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "corpus"))


def first_row(rows: pa.Table, name: str, value: Any) -> pa.Table:
    return with_column(rows, name, [value, *rows[name].to_pylist()[1:]])


def doubled(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows.slice(0, 1), rows.slice(0, 1), rows.slice(2)])


def reordered(rows: pa.Table) -> pa.Table:
    return rows.take(list(range(rows.num_rows))[::-1])


def cells(name: str, place: int, value: Any) -> Callable[[pa.Table], pa.Table]:
    dtype = "<u2" if name == "fsq" else "<f2"

    def change(rows: pa.Table) -> pa.Table:
        values = np.frombuffer(rows[name][0].as_py(), dtype).copy()
        values[place] = value
        return first_row(rows, name, values.tobytes())

    return change


class TestRows:
    """Faults of a writer: the bytes are those that the record promises."""

    @pytest.mark.parametrize(
        ("change", "kind", "text"),
        [
            (cells("fsq", 3, 32768), "range", "fsq: index 32768, the codebook has 32768"),
            (cells("kl", 5, np.nan), "non_finite", "kl: NaN or infinity in 1 of 32 cells"),
            (cells("kl_logvar", 0, -np.inf), "non_finite", "kl_logvar: NaN or infinity in 1"),
            (
                lambda rows: first_row(rows, "fsq_shape", [8]),
                "shape",
                "fsq_shape [8], the model gives [2, 2, 2]",
            ),
            (
                lambda rows: first_row(rows, "kl", b"\0" * 62),
                "shape",
                "kl: 62 bytes, [4, 2, 2, 2] float16 take 64",
            ),
            (doubled, "doubled", "u/k0/0: has two rows"),
            (reordered, "order", "after"),
            (lambda rows: first_row(rows, "clip_id", "u/k0/7"), "rows", "u/k0/7: not of unit u"),
            (lambda rows: first_row(rows, "unit", "v"), "rows", "not of unit u"),
            (lambda rows: first_row(rows, "end_s", 0.0), "rows", "is not below end_s 0.0"),
        ],
    )
    def test_a_faulty_row(
        self, local: Store, change: Callable[[pa.Table], pa.Table], kind: str, text: str
    ) -> None:
        record = with_rows(local, commit(local, deliver("u")), change)
        write_log(local, [record])
        result = verify(local)
        assert {found.kind for found in result.findings} == {kind}
        assert {found.where for found in result.findings} == {record.parts[0].path}
        assert any(text in found.detail for found in result.findings)

    @pytest.mark.parametrize(
        ("change", "fields"),
        [
            (cells("fsq", 3, 1), "levels"),
            (cells("kl", 5, 0.25), "latents"),
            (
                lambda rows: first_row(rows, "caption", "other words"),
                "captions, caption_characters",
            ),
        ],
    )
    def test_rows_that_are_not_those_of_the_statistics(
        self, local: Store, change: Callable[[pa.Table], pa.Table], fields: str
    ) -> None:
        record = with_rows(local, commit(local, deliver("u")), change)
        write_log(local, [record])
        found = one(verify(local))
        text = f"unit u, bucket {record.parts[0].bucket}: {fields} differ from its rows"
        assert (found.kind, found.where, found.detail) == ("statistics", "log", text)
        assert verify(local, sample=1).findings == [], "of a part alone nothing can be said"

    def test_a_bucket_without_statistics_and_psnr(self, local: Store) -> None:
        record = commit(local, deliver("u"))
        assert record.statistics is not None
        measured = {
            bucket: replace(sums, psnr={"fsq": PsnrSums.of("u/k0/0", 30.0)})
            for bucket, sums in record.statistics.items()
        }
        write_log(local, [replace(record, statistics=measured)])
        assert verify(local).findings == []
        other = Store(local.uri + "-2")
        for path in local.list():
            if not path.startswith(("log", "manifest", "dataset")):
                other.write(path, local.read(path))
        measured.pop("5x16x16")
        write_log(other, [replace(record, statistics=measured)])
        assert one(verify(other)).detail.startswith("unit u, bucket 5x16x16: clips, frames, ")

    def test_a_row_too_few(self, local: Store) -> None:
        record = commit(local, deliver("u"))
        short = with_rows(local, record, lambda rows: rows.slice(1))
        write_log(local, [short])
        assert "8 clips written, 7 rows in its parts" in one(verify(local)).detail
        lying = replace(short.parts[0], rows=record.parts[0].rows)
        other = Store(local.uri + "-2")
        for part in (*short.parts, *([short.quarantine] if short.quarantine else [])):
            other.write(part.path, local.read(part.path))
        write_log(other, [replace(short, parts=(lying, *short.parts[1:]))])
        assert one(verify(other)).detail == "4 rows, recorded 5"

    def test_a_clip_in_two_parts(self, local: Store) -> None:
        """Of two buckets: each of the parts alone is sound."""
        record = commit(local, deliver("u", batches=(2, 2)))
        names = ("clip_id", "key", "clip_index")
        with local.open(record.parts[0].path) as file:
            first = pq.read_table(file)
        moved = replace(record, parts=record.parts[::-1])

        def change(rows: pa.Table) -> pa.Table:
            for name in names:
                rows = with_column(rows, name, first[name].to_pylist())
            return rows

        changed = with_rows(local, moved, change)
        write_log(local, [replace(changed, parts=changed.parts[::-1])])
        result = verify(local)
        assert [found.kind for found in result.findings] == ["doubled", "doubled"]

    def test_other_columns(self, local: Store) -> None:
        record = commit(local, deliver("u"))
        part = record.parts[0]
        with local.open(part.path) as file:
            rows = pq.read_table(file).drop_columns(["caption"])
        content = parquet_bytes(rows)
        wrong = replace(part, **described(content, "data/5x16x16/u-0-{}.parquet"))
        local.write(wrong.path, content)
        write_log(local, [replace(record, parts=(wrong, *record.parts[1:]))])
        assert kinds(verify(local)) == [("schema", wrong.path)]


class TestQuarantine:
    def recorded(self, local: Store, rows: list[dict[str, Any]]) -> UnitRecord:
        record = commit(local, deliver("u", lost=[1]))
        assert record.quarantine is not None
        content = parquet_bytes(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA))
        part = replace(record.quarantine, **described(content, "quarantine/u-{}.parquet"))
        local.write(part.path, content)
        return replace(record, quarantine=part)

    def rows(self, local: Store) -> list[dict[str, Any]]:
        record = commit(local, deliver("u", lost=[1]))
        assert record.quarantine is not None
        with local.open(record.quarantine.path) as file:
            rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
        return rows

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"reason": "truncated"}, "reasons {'truncated': 1, 'non_finite': 1}, recorded"),
            ({"clip_index": 3}, "0 samples and 2 clips, counted 1 and 1"),
            ({"unit": "v"}, "v/bad0/None: reason corrupt, unit v"),
        ],
    )
    def test_other_rows_than_counted(self, local: Store, change: dict[str, Any], text: str) -> None:
        sample, clip = self.rows(local)
        write_log(local, [self.recorded(local, [{**sample, **change}, clip])])
        found = one(verify(local))
        assert found.kind == "quarantine"
        assert text in found.detail

    def test_a_clip_that_has_a_row_as_well(self, local: Store) -> None:
        sample, clip = self.rows(local)
        write_log(local, [self.recorded(local, [sample, {**clip, "clip_index": 0}])])
        found = one(verify(local))
        assert (found.kind, found.detail) == ("doubled", "u/k0/0: also has a row")
