import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.part_writer import PartWriter, write_quarantine
from pipeline.dataset.records import Part
from pipeline.dataset.schema import (
    FORMAT_VERSION,
    QUARANTINE_SCHEMA,
    clip_schema,
    index_dtype,
    tokenizer_columns,
)
from pipeline.errors import ConfigError
from pipeline.stages.messages import decode_rows, encode_rows
from pipeline.storage.store import Store
from tests.pipeline.units import FSQ, KL, SCHEMA, SMALL, make_cells, make_clip, quarantine

CLIPS = [make_clip("u-1", n) for n in range(7)]
CELLS = make_cells(CLIPS, SMALL)


class TestTokenizerColumn:
    @pytest.mark.parametrize(
        ("size", "dtype"),
        [
            (2, "uint8"),
            (256, "uint8"),
            (257, "uint16"),
            (65536, "uint16"),
            (65537, "uint32"),
            (262144, "uint32"),
        ],
    )
    def test_smallest_integer_that_holds_the_codebook(self, size: int, dtype: Any) -> None:
        assert index_dtype(size) == dtype
        assert np.iinfo(dtype).max >= size - 1
        dataclasses.replace(FSQ, dtype=dtype, codebook_size=size)

    @pytest.mark.parametrize(
        ("changes", "text"),
        [
            ({"name": "Fsq"}, "tokenizer 'Fsq': a name takes a-z"),
            ({"name": ""}, "tokenizer '': a name takes a-z"),
            ({"name": "a-b"}, "tokenizer 'a-b': a name takes a-z"),
            ({"dtype": "uint32"}, "dtype = uint32: indices below 32768 are stored as uint16"),
            ({"codebook_size": None}, "fsq needs codebook_size"),
            ({"logvar": True}, "has no logvar"),
            ({"kind": "kl"}, "kl stores floats"),
            ({"codebook_size": 0}, "codebook_size = 0"),
        ],
    )
    def test_refuses_what_cannot_be(self, changes: dict[str, Any], text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            dataclasses.replace(FSQ, **changes)
        assert text in str(caught.value)


class TestSchema:
    def test_columns(self) -> None:
        types = {field.name: str(field.type) for field in SCHEMA}
        assert types == {
            "clip_id": "string",
            "unit": "string",
            "key": "string",
            "clip_index": "int32",
            "start_s": "double",
            "end_s": "double",
            "source_fps": "double",
            "source_height": "int32",
            "source_width": "int32",
            "crop": "list<item: float>",
            "num_frames": "int32",
            "padded_frames": "int32",
            "caption": "string",
            "meta": "string",
            "fsq": "binary",
            "fsq_shape": "list<item: int32>",
            "kl": "binary",
            "kl_shape": "list<item: int32>",
            "kl_logvar": "binary",
        }
        assert [field.name for field in SCHEMA if field.nullable] == ["caption", "meta"]

    def test_metadata_describes_the_tokenizers(self) -> None:
        assert tokenizer_columns(SCHEMA) == (FSQ, KL)
        assert SCHEMA.metadata[b"vidtok.fsq.dtype"] == b"uint16"
        assert SCHEMA.metadata[b"vidtok.kl.axes"] == b"c t h w"

    def test_metadata_of_others_and_of_the_future(self) -> None:
        with pytest.raises(ConfigError, match="not a part"):
            tokenizer_columns(pa.schema([("a", pa.int32())]))
        head = json.loads(SCHEMA.metadata[b"vidtok"])
        head["format_version"] = FORMAT_VERSION + 1
        newer = SCHEMA.with_metadata({"vidtok": json.dumps(head)})
        with pytest.raises(ConfigError, match=f"format version {FORMAT_VERSION + 1}"):
            tokenizer_columns(newer)

    @pytest.mark.parametrize("name", ["caption", "kl", "kl_shape", "kl_logvar"])
    def test_names_that_collide(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"named .*{name}"):
            clip_schema([KL, dataclasses.replace(FSQ, name=name)])


class TestRows:
    def test_cells_are_little_endian_in_c_order(self) -> None:
        indices = np.arange(2 * 2 * 3 * 4, dtype=">u2").reshape(2, 4, 3, 2).transpose(0, 3, 2, 1)
        schema = clip_schema([FSQ])
        rows = clip_rows(CLIPS[:2], {"fsq": indices}, schema)
        for n in range(2):
            assert rows["fsq_shape"][n].as_py() == [2, 3, 4]
            assert rows["fsq"][n].as_py() == indices[n].astype("<u2").tobytes("C")

    def test_rows_hold_what_the_clips_say(self) -> None:
        rows = clip_rows(CLIPS, CELLS, SCHEMA).to_pylist()
        for clip, row in zip(CLIPS, rows, strict=True):
            assert row["clip_id"] == clip.clip_id == f"u-1/{clip.key}/{clip.clip_index}"
            for name in ("unit", "start_s", "end_s", "source_fps", "caption", "meta"):
                assert row[name] == getattr(clip, name)
            assert row["crop"] == list(clip.crop)

    def test_no_clips(self) -> None:
        rows = clip_rows([], make_cells([], SMALL), SCHEMA)
        assert decode_rows(encode_rows(rows)).num_rows == 0

    def test_round_trip_keeps_rows_and_metadata(self) -> None:
        rows = clip_rows(CLIPS, CELLS, SCHEMA)
        back = decode_rows(encode_rows(rows))
        assert back.schema.equals(SCHEMA, check_metadata=True)
        assert back.to_batches() == [rows]

    @pytest.mark.parametrize(
        ("cells", "text"),
        [
            ({"fsq": CELLS["fsq"].astype(np.int32)}, "fsq: got int32"),
            ({"fsq": CELLS["fsq"][:3]}, r"fsq: got uint16 \[3,"),
            ({"kl_logvar": CELLS["kl_logvar"][:, :2]}, "kl: mean"),
        ],
    )
    def test_cells_that_do_not_fit(self, cells: dict[str, np.ndarray], text: str) -> None:
        with pytest.raises(ValueError, match=text):
            clip_rows(CLIPS, {**CELLS, **cells}, SCHEMA)

    def test_bfloat16_is_stored_as_its_bits(self) -> None:
        column = dataclasses.replace(KL, dtype="bfloat16", logvar=False)
        floats = np.array([[[[[1.0, -2.5]]]]], dtype="<f4")
        bits = (floats.view("<u4") >> 16).astype("<u2")
        rows = clip_rows(CLIPS[:1], {"kl": bits}, clip_schema([column]))
        stored = np.frombuffer(rows["kl"][0].as_py(), dtype=column.stored_dtype)
        assert (stored.astype("<u4") << 16).view("<f4").tolist() == [1.0, -2.5]


def write(store: Store, tables: list[pa.Table], **limits: int) -> tuple[Part, ...]:
    with PartWriter(store, SCHEMA, unit="u-1", bucket=SMALL.name, **limits) as writer:
        for table in tables:
            writer.add(table)
        return writer.publish()


def table_of(count: int, scale: int = 1) -> pa.Table:
    clips = [make_clip("u-1", n) for n in range(count)]
    return pa.Table.from_batches([clip_rows(clips, make_cells(clips, SMALL, scale), SCHEMA)])


class TestWriter:
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Store(str(tmp_path / "corpus"))

    def test_part_describes_its_file(self, store: Store) -> None:
        table = table_of(5)
        [part] = write(store, [table])
        data = store.read(part.path)
        digest = hashlib.sha256(data).hexdigest()
        assert part == Part(
            path=f"data/5x16x16/u-1-0-{digest[:16]}.parquet",
            bucket="5x16x16",
            rows=5,
            bytes=len(data),
            sha256=digest,
        )
        assert pq.read_table(pa.BufferReader(data)) == table

    def test_same_rows_give_the_same_file(self, store: Store) -> None:
        table = table_of(40)
        whole = write(store, [table], row_group_bytes=4000)
        again = write(store, [table], row_group_bytes=4000)
        assert again == whole
        assert store.list() == [whole[0].path]

    def test_other_rows_never_take_the_same_name(self, store: Store) -> None:
        [one] = write(store, [table_of(5)])
        place = SCHEMA.get_field_index("caption")
        changed = table_of(5).set_column(place, SCHEMA.field("caption"), [["other"] * 5])
        [other] = write(store, [changed])
        assert one.path != other.path
        assert len(store.list()) == 2

    def test_row_groups_are_bounded(self, store: Store) -> None:
        table = table_of(200)
        limit = table.nbytes // 10
        [part] = write(store, [table.slice(n, 7) for n in range(0, 200, 7)], row_group_bytes=limit)
        file = pq.ParquetFile(pa.BufferReader(store.read(part.path)))
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        assert sum(groups) == 200
        assert 10 <= len(groups) <= 14
        assert max(groups) <= 21
        assert file.read() == table

    def test_a_row_larger_than_the_limit_is_a_group(self, store: Store) -> None:
        [part] = write(store, [table_of(3)], row_group_bytes=1)
        file = pq.ParquetFile(pa.BufferReader(store.read(part.path)))
        assert [file.metadata.row_group(n).num_rows for n in range(3)] == [1, 1, 1]

    def test_parts_are_cut_by_size(self, store: Store) -> None:
        table = table_of(300, scale=4)
        parts = write(store, [table], row_group_bytes=20_000, max_part_bytes=100_000)
        assert len(parts) > 3
        assert [part.path.split("-")[2] for part in parts] == [str(n) for n in range(len(parts))]
        assert all(part.bytes < 160_000 for part in parts)
        rows = [pq.read_table(pa.BufferReader(store.read(part.path))) for part in parts]
        assert pa.concat_tables(rows) == table

    def test_nothing_is_visible_before_publish_or_after_a_failure(
        self, store: Store, tmp_path: Path
    ) -> None:
        with PartWriter(store, SCHEMA, unit="u", bucket="b", row_group_bytes=1) as writer:
            writer.add(table_of(3))
            assert store.list() == []
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_cells_carry_neither_statistics_nor_dictionary(self, store: Store) -> None:
        [part] = write(store, [table_of(50)])
        group = pq.ParquetFile(pa.BufferReader(store.read(part.path))).metadata.row_group(0)
        columns = {
            group.column(n).path_in_schema: group.column(n) for n in range(group.num_columns)
        }
        assert columns["clip_id"].is_stats_set
        for name in ("fsq", "kl", "kl_logvar"):
            assert not columns[name].is_stats_set
            assert not columns[name].has_dictionary_page
        bare = {name for name, column in columns.items() if column.compression != "ZSTD"}
        assert bare == {"kl", "kl_logvar"}, "all else shrinks"

    def test_quarantine_table(self, store: Store) -> None:
        records = [
            quarantine(CLIPS[1], "non_finite", "tokenize"),
            dataclasses.replace(quarantine(CLIPS[0], "corrupt", "decode"), clip_index=None),
        ]
        part = write_quarantine(store, "u-1", records)
        assert part is not None
        assert (part.rows, part.bucket) == (2, "")
        assert part.path == f"quarantine/u-1-{part.sha256[:16]}.parquet"
        table = pq.read_table(pa.BufferReader(store.read(part.path)))
        assert table.schema.equals(QUARANTINE_SCHEMA)
        assert table.to_pylist() == [dataclasses.asdict(record) for record in records]

    def test_no_quarantine_is_no_file(self, store: Store) -> None:
        assert write_quarantine(store, "u-1", []) is None
        assert store.list() == []


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
