"""What the writer of parts puts into a store, and that other readers open it."""

import dataclasses
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.part_writer import PartWriter, write_quarantine
from pipeline.dataset.quantized import quantize
from pipeline.dataset.records import Part
from pipeline.dataset.schema import QUARANTINE_SCHEMA, clip_schema
from pipeline.storage.store import Store
from tests.pipeline.units import KL, SCHEMA, SMALL, make_cells, make_clip, quarantine

CLIPS = [make_clip("u-1", n) for n in range(2)]


def write(store: Store, tables: list[pa.Table], **limits: int) -> tuple[Part, ...]:
    with PartWriter(store, SCHEMA, unit="u-1", bucket=SMALL.name, **limits) as writer:
        for table in tables:
            writer.add(table)
        return writer.publish()


def table_of(count: int, scale: int = 1) -> pa.Table:
    clips = [make_clip("u-1", n) for n in range(count)]
    return pa.Table.from_batches([clip_rows(clips, make_cells(clips, SMALL, scale), SCHEMA)])


class TestWriter:
    def test_part_describes_its_file(self, local: Store) -> None:
        table = table_of(5)
        [part] = write(local, [table])
        data = local.read(part.path)
        digest = hashlib.sha256(data).hexdigest()
        assert part == Part(
            path=part.path,
            bucket="5x16x16",
            rows=5,
            bytes=len(data),
            sha256=digest,
        )
        assert re.fullmatch(f"data/5x16x16/u-1-0-{digest[:16]}[0-9a-f]{{16}}.parquet", part.path)
        assert pq.read_table(pa.BufferReader(data)) == table

    def test_same_rows_give_the_same_bytes_under_another_name(self, local: Store) -> None:
        """A name is never written twice: the log may have dropped it."""
        table = table_of(40)
        [one] = write(local, [table], row_group_bytes=4000)
        [other] = write(local, [table], row_group_bytes=4000)
        assert local.list() == sorted([one.path, other.path])
        assert dataclasses.replace(other, path=one.path) == one

    def test_other_rows_never_take_the_same_name(self, local: Store) -> None:
        [one] = write(local, [table_of(5)])
        place = SCHEMA.get_field_index("caption")
        changed = table_of(5).set_column(place, SCHEMA.field("caption"), [["other"] * 5])
        [other] = write(local, [changed])
        assert one.path != other.path
        assert len(local.list()) == 2

    def test_row_groups_are_bounded(self, local: Store) -> None:
        table = table_of(200)
        limit = table.nbytes // 10
        [part] = write(local, [table.slice(n, 7) for n in range(0, 200, 7)], row_group_bytes=limit)
        file = pq.ParquetFile(pa.BufferReader(local.read(part.path)))
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        assert sum(groups) == 200
        assert 10 <= len(groups) <= 14
        assert max(groups) <= 21
        assert file.read() == table

    def test_a_row_larger_than_the_limit_is_a_group(self, local: Store) -> None:
        [part] = write(local, [table_of(3)], row_group_bytes=1)
        file = pq.ParquetFile(pa.BufferReader(local.read(part.path)))
        assert [file.metadata.row_group(n).num_rows for n in range(3)] == [1, 1, 1]

    def test_parts_are_cut_by_size(self, local: Store) -> None:
        table = table_of(300, scale=4)
        parts = write(local, [table], row_group_bytes=20_000, max_part_bytes=100_000)
        assert len(parts) > 3
        assert [part.path.split("-")[2] for part in parts] == [str(n) for n in range(len(parts))]
        assert all(part.bytes < 160_000 for part in parts)
        rows = [pq.read_table(pa.BufferReader(local.read(part.path))) for part in parts]
        assert pa.concat_tables(rows) == table

    def test_nothing_is_visible_before_publish_or_after_a_failure(
        self, local: Store, tmp_path: Path
    ) -> None:
        with PartWriter(local, SCHEMA, unit="u", bucket="b", row_group_bytes=1) as writer:
            writer.add(table_of(3))
            assert local.list() == []
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_cells_carry_neither_statistics_nor_dictionary(self, local: Store) -> None:
        [part] = write(local, [table_of(50)])
        group = pq.ParquetFile(pa.BufferReader(local.read(part.path))).metadata.row_group(0)
        columns = {
            group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)
        }
        assert columns["clip_id"].is_stats_set
        for name in ("fsq", "kl", "kl_logvar"):
            assert not columns[name].is_stats_set
            assert not columns[name].has_dictionary_page
        bare = {name for name, column in columns.items() if column.compression != "ZSTD"}
        assert bare == {"kl", "kl_logvar"}, "all else shrinks"

    @pytest.mark.parametrize(("bits", "codec"), [(8, "UNCOMPRESSED"), (7, "ZSTD"), (5, "ZSTD")])
    def test_latents_below_8_bits_are_compressed(self, local: Store, bits: Any, codec: str) -> None:
        column = dataclasses.replace(KL, dtype="uint8", bits=bits, logvar=False)
        cells, scales = quantize(make_cells(CLIPS, SMALL)["kl"].astype(np.float32), bits)
        schema = clip_schema([column])
        rows = clip_rows(CLIPS, {"kl": cells, "kl_scale": scales}, schema)
        with PartWriter(local, schema, unit="u", bucket=SMALL.name) as writer:
            writer.add(pa.Table.from_batches([rows]))
            [part] = writer.publish()
        file = pq.ParquetFile(pa.BufferReader(local.read(part.path)))
        assert file.read() == pa.Table.from_batches([rows])
        group = file.metadata.row_group(0)
        chunks = [group.column(n) for n in range(group.num_columns)]
        [found] = [chunk.compression for chunk in chunks if chunk.path_in_schema == "kl"]
        assert found == codec

    def test_quarantine_table(self, local: Store) -> None:
        records = [
            quarantine(CLIPS[1], "non_finite", "tokenize"),
            dataclasses.replace(quarantine(CLIPS[0], "corrupt", "decode"), clip_index=None),
        ]
        part = write_quarantine(local, "u-1", records)
        assert part is not None
        assert (part.rows, part.bucket) == (2, "")
        assert re.fullmatch(f"quarantine/u-1-{part.sha256[:16]}[0-9a-f]{{16}}.parquet", part.path)
        table = pq.read_table(pa.BufferReader(local.read(part.path)))
        assert table.schema.equals(QUARANTINE_SCHEMA)
        assert table.to_pylist() == [dataclasses.asdict(record) for record in records]

    def test_no_quarantine_is_no_file(self, local: Store) -> None:
        assert write_quarantine(local, "u-1", []) is None
        assert local.list() == []


class TestOtherReaders:
    """The files open everywhere, without a line of ours."""

    @pytest.fixture
    def corpus(self, tmp_path: Path) -> Path:
        root = tmp_path / "corpus"
        write(Store(str(root)), [table_of(20)], row_group_bytes=4000)
        return root

    @pytest.fixture
    def wanted(self) -> np.ndarray:
        return make_cells([make_clip("u-1", n) for n in range(20)], SMALL)["fsq"]

    def test_pyarrow_dataset(self, corpus: Path, wanted: np.ndarray) -> None:
        table = pa.dataset.dataset(corpus / "data").to_table(columns=["fsq", "fsq_shape"])
        assert np.array_equal(_arrays(table.to_pylist()), wanted)

    def test_pandas(self, corpus: Path, wanted: np.ndarray) -> None:
        import pandas as pd

        frame = pd.read_parquet(corpus / "data")
        assert np.array_equal(_arrays(frame[["fsq", "fsq_shape"]].to_dict("records")), wanted)
        assert frame["caption"].isna().sum() == 7
        assert frame["start_s"].dtype == np.float64

    def test_duckdb(self, corpus: Path, wanted: np.ndarray) -> None:
        import duckdb

        files = f"{corpus}/data/*/*.parquet"
        with duckdb.connect() as connection:
            rows = connection.execute(f"SELECT fsq, fsq_shape FROM '{files}'").fetchall()
            [[crop]] = connection.execute(f"SELECT DISTINCT crop[4] FROM '{files}'").fetchall()
            [[metadata]] = connection.execute(
                f"SELECT value FROM parquet_kv_metadata('{files}') WHERE key = 'vidtok.fsq.dtype'"
            ).fetchall()
        named = [{"fsq": cells, "fsq_shape": shape} for cells, shape in rows]
        assert np.array_equal(_arrays(named), wanted)
        assert crop == 480.0
        assert metadata == b"uint16"

    def test_hugging_face_datasets(
        self, corpus: Path, wanted: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        import datasets

        rows = datasets.load_dataset(
            "parquet",
            data_files=[str(path) for path in (corpus / "data").rglob("*.parquet")],
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        assert np.array_equal(_arrays(list(rows)), wanted)
        assert rows.column_names == SCHEMA.names


def _arrays(rows: list[dict[str, Any]]) -> np.ndarray:
    """Turn rows back into numbers as docs tell a stranger to."""
    return np.stack([np.frombuffer(r["fsq"], "<u2").reshape(r["fsq_shape"]) for r in rows])
