"""Only the columns asked for are read, and every stored type becomes its tensor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import pipeline
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.schema import TokenizerColumn, clip_schema
from pipeline.errors import ConfigError, DamagedFile, StoreError
from pipeline.reading import TokenDataset
from pipeline.reading.columns import Columns, row_tensors
from pipeline.reading.row_groups import RowGroups
from pipeline.stages.commit import commit_unit
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import sound, write_log
from tests.pipeline.s3 import S3Server
from tests.pipeline.units import LEVELS, SCHEMA, deliver, make_clip


def column(dtype: str) -> TokenizerColumn:
    if dtype.startswith("uint"):
        bits = int(dtype.removeprefix("uint"))
        axes, kind, size = ("t", "h", "w"), "indices", 1 << bits
    else:
        axes, kind, size = ("c", "t", "h", "w"), "latents", None
    return TokenizerColumn(
        name="n",
        kind=kind,  # type: ignore[arg-type]
        dtype=dtype,  # type: ignore[arg-type]
        axes=axes,
        model="m",
        fingerprint="0",
        codebook_size=size,
    )


@pytest.mark.parametrize(
    ("dtype", "stored", "wanted"),
    [
        ("uint8", np.array([0, 7, 255], "u1"), torch.tensor([0, 7, 255])),
        ("uint16", np.array([0, 7, 65535], "u2"), torch.tensor([0, 7, 65535])),
        ("uint32", np.array([0, 7, 2**32 - 1], "u4"), torch.tensor([0, 7, 2**32 - 1])),
        ("float16", np.array([0, 0.1, -9], "f2"), torch.tensor([0, 0.1, -9], dtype=torch.float16)),
        ("float32", np.array([0, 0.1, -9], "f4"), torch.tensor([0, 0.1, -9])),
        (
            "bfloat16",
            np.array([0, 0x3F80, 0xC110], "u2"),  # upper halves of float32
            torch.tensor([0, 1, -9], dtype=torch.bfloat16),
        ),
    ],
)
def test_types(dtype: str, stored: np.ndarray, wanted: torch.Tensor) -> None:
    kind = column(dtype)
    shape = (1,) * (len(kind.axes) - 1) + (3,)
    cells = np.stack([stored, stored[::-1], stored]).reshape(3, *shape)
    rows = clip_rows([make_clip("u", n) for n in range(3)], {"n": cells}, clip_schema([kind]))
    table = pa.Table.from_batches([rows])
    columns = Columns([kind], ["n", "clip_id"])
    read = columns.rows(table.slice(1), columns.shapes(table))
    batch = columns.batch([(read, 1), (read, 0)])
    assert batch["n"].dtype == wanted.dtype
    assert torch.equal(batch["n"], torch.stack([wanted, wanted.flip(0)]).reshape(2, *shape))
    assert batch["clip_id"] == ["u/k1/0", "u/k0/1"]
    [row, *_] = table.to_pylist()
    one = row_tensors(row, [kind])["n"]
    assert one.dtype == wanted.dtype
    assert torch.equal(one, wanted.reshape(shape))


QUANTIZED = replace(column("float32"), dtype="uint8", bits=6)


def quantized_table() -> pa.Table:
    """Return three rows with the same cells and other scales."""
    cells = np.tile(np.array([0, 1, 63], "u1").reshape(1, 1, 1, 3), (3, 2, 1, 1, 1))
    scales = np.array([[0, -1, 1, 0.5], [8, 8, 0, 0], [-2, 0, 0.25, 2]], "f4")
    clips = [make_clip("u", n) for n in range(3)]
    rows = clip_rows(clips, {"n": cells, "n_scale": scales}, clip_schema([QUANTIZED]))
    return pa.Table.from_batches([rows])


QUANTIZED_VALUES = torch.tensor(
    [
        [[0, 1, 63], [-1, -0.5, 30.5]],
        [[8, 8, 8], [8, 8, 8]],
        [[-2, -1.75, 13.75], [0, 2, 126]],
    ]
).reshape(3, 2, 1, 1, 3)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ragged", [False, True])
def test_cells_with_a_scale_become_floats(dtype: torch.dtype | None, ragged: bool) -> None:
    table = quantized_table()
    columns = Columns([QUANTIZED], ["n"], dtype=dtype)
    if ragged:  # as whole videos
        read = columns.ragged_rows(table.slice(1))
    else:
        read = columns.rows(table.slice(1), columns.shapes(table))
    batch = columns.batch([(read, 1), (read, 0)])
    assert batch.keys() == {"n"}
    wanted = QUANTIZED_VALUES[[2, 1]].to(dtype or torch.float32)
    found = torch.stack(batch["n"]) if ragged else batch["n"]
    assert found.dtype == wanted.dtype
    assert torch.equal(found, wanted)
    row = row_tensors(table.to_pylist()[0], [QUANTIZED])
    assert torch.equal(row["n"], QUANTIZED_VALUES[0])
    assert row.keys() == {*table.column_names} - {"n_shape", "n_scale"}


def test_a_scale_can_be_read_as_it_is() -> None:
    table = quantized_table()
    columns = Columns([QUANTIZED], ["n_scale", "n"])
    batch = columns.batch([(columns.rows(table, columns.shapes(table)), 1)])
    assert batch["n_scale"] == [[8, 8, 0, 0]]


def test_only_latents_become_another_type_of_float() -> None:
    with pytest.raises(ConfigError, match=r"^dtype = torch\.int8: must be a floating-point type"):
        Columns([QUANTIZED], ["n"], dtype=torch.int8)
    kind = column("uint16")
    cells = np.arange(4, dtype="u2").reshape(1, 1, 1, 4)
    rows = clip_rows([make_clip("u", 0)], {"n": cells}, clip_schema([kind]))
    columns = Columns([kind], ["n", "start_s"], dtype=torch.float16)
    read = columns.rows(pa.Table.from_batches([rows]), {"n": (1, 1, 4)})
    batch = columns.batch([(read, 0)])
    assert (batch["n"].dtype, batch["start_s"].dtype) == (torch.int64, torch.float64)


def test_a_part_with_a_wrong_scale_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    table = quantized_table()
    scales = pa.array([[0.0, 0.0, 1.0, 1.0]] * 2 + [[0.0, 0.0, 1.0, -1.0]], pa.list_(pa.float32()))
    table = table.set_column(table.column_names.index("n_scale"), "n_scale", scales)
    schema = clip_schema([QUANTIZED])
    with PartWriter(store, schema, unit="u", bucket="5x16x16") as writer:
        writer.add(table.cast(schema))
        [part] = writer.publish()
    text = rf"{part.path}: ArrowInvalid: column n_scale: the step -1\.0 is negative; run `python -m"
    with pytest.raises(DamagedFile, match=text):
        RowGroups(store, Columns([QUANTIZED], ["n"])).read(part, [0])


def test_a_batch_owns_its_memory() -> None:
    kind = column("float32")
    cells = np.ones((2, 1, 1, 1, 4), "f4")
    rows = clip_rows([make_clip("u", n) for n in range(2)], {"n": cells}, clip_schema([kind]))
    columns = Columns([kind], ["n"])
    read = columns.rows(pa.Table.from_batches([rows]), {"n": (1, 1, 1, 4)})
    columns.batch([(read, 0)])["n"].zero_()
    assert columns.batch([(read, 0)])["n"].sum() == 4


def test_cells_that_do_not_fill_their_shape() -> None:
    kind = column("float32")
    rows = clip_rows(
        [make_clip("u", 0)], {"n": np.ones((1, 1, 1, 1, 4), "f4")}, clip_schema([kind])
    )
    columns = Columns([kind], ["n"])
    with pytest.raises(pa.ArrowInvalid, match=r"n: cells do not fill the shape \[1, 1, 1, 5\]"):
        columns.rows(pa.Table.from_batches([rows]), {"n": (1, 1, 1, 5)})


def test_a_part_with_other_rows_than_the_log_says(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "corpus"))
    sound(store)
    snapshot = pipeline.open(store.uri)
    row_groups = RowGroups(store, Columns(snapshot.tokenizers, ["fsq"]))
    [part, *_] = snapshot.parts()
    assert sum(row_groups.sizes(part)) == part.rows
    wrong = replace(part, rows=part.rows + 1)
    text = rf"{part.path}: .*{part.rows} rows, recorded {wrong.rows}"
    with pytest.raises(StoreError, match=text):
        row_groups.sizes(wrong)


@pytest.mark.s3
def test_no_bytes_of_other_columns_are_read(s3: S3Server, s3_store: Store) -> None:
    sent = deliver("u-0", batches=(6, 1, 6), scale=32)
    record = commit_unit(
        sent.unit,
        sent.closing,
        sent.payloads,
        store=s3_store,
        schema=SCHEMA,
        levels=LEVELS,
        row_group_bytes=1 << 18,
    )
    write_log(s3_store, [record])
    bucket = "5x16x16"
    [part] = (part for part in record.parts if part.bucket == bucket)
    with s3_store.open(part.path) as file:
        footer = pq.ParquetFile(file).metadata
    asked: list[dict[str, Any]] = []
    snapshot = pipeline.open(s3_store.uri, storage_options=s3_store.storage_options)
    with s3.faults.rule(lambda environ: asked.append(dict(environ))):
        dataset = TokenDataset(snapshot, ["fsq"], 4, buckets=[bucket])
        assert sum(len(batch["fsq"]) for batch in dataset) == 12
    assert {environ["REQUEST_METHOD"] for environ in asked} == {"GET"}
    ranges = []
    for environ in asked:
        first, last = environ["HTTP_RANGE"].removeprefix("bytes=").split("-")
        ranges.append(range(int(first), int(last) + 1))
    [end] = (one for one in ranges if one.stop == part.bytes)
    assert len(end) <= 1 << 16, "the footer, once"
    ranges.remove(end)
    assert len(ranges) == footer.num_row_groups > 2
    for group in range(footer.num_row_groups):
        for n in range(footer.num_columns):
            chunk = footer.row_group(group).column(n)
            touched = [
                one
                for one in ranges
                if one.start < chunk.data_page_offset + 8 and chunk.data_page_offset < one.stop
            ]
            if chunk.path_in_schema == "fsq":
                assert len(touched) == 1
            elif chunk.path_in_schema.startswith("kl"):
                assert not touched


def test_rows_come_from_where_they_are_on_any_store(store: Store, tmp_path: Path) -> None:
    sent = deliver("u-0", batches=(5, 5, 5))
    options = {"store": store, "schema": SCHEMA, "levels": LEVELS, "row_group_bytes": 1500}
    record = commit_unit(sent.unit, sent.closing, sent.payloads, **options)  # type: ignore[arg-type]
    write_log(store, [record])
    snapshot = pipeline.open(store.uri, storage_options=store.storage_options)
    found = [batch["clip_id"] for batch in TokenDataset(snapshot, ["clip_id", "kl"], 2)]
    assert len({name for batch in found for name in batch}) == 15
