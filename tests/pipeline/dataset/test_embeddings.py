"""Embeddings in parts: a caption's is stored once, however many clips share it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset.embeddings import Embedding, embedded_rows
from pipeline.dataset.part_writer import PartWriter
from pipeline.dataset.records import Part
from pipeline.dataset.schema import TokenizerColumn, clip_schema, packed_schema
from pipeline.dataset.shared_sizes import EXPANDED
from pipeline.stages.messages import decode_rows, encode_rows, plain_rows
from pipeline.storage.store import Store
from tests.pipeline.units import SMALL, make_clip

TEXT = TokenizerColumn(
    name="text",
    kind="embeddings",
    dtype="bfloat16",
    axes=("n", "c"),
    model="transformers:UMT5EncoderModel",
    fingerprint="d" * 32,
)
SCHEMA = clip_schema([TEXT])
TOKENS, WIDTH = 100, 512
BYTES = TOKENS * WIDTH * 2


def packed_rows(clips: int, captions: int) -> pa.Table:
    """Return rows whose captions are shared by neighbours, as a payload carries them."""
    rng = np.random.default_rng(0)
    share = clips // captions
    made = [replace(make_clip("u", n), caption=f"caption {n // share}") for n in range(clips)]
    found = {
        clip.caption: Embedding(
            tuple(range(TOKENS)), rng.integers(0, 1 << 16, (TOKENS, WIDTH), np.uint16)
        )
        for clip in made
    }
    rows = embedded_rows(made, {"text": found}, packed_schema(SCHEMA))
    data = encode_rows(rows)
    assert len(data) < (captions + 1) * BYTES
    return decode_rows(data)


def write(folder: Path, rows: pa.Table, piece_bytes: int, group_bytes: int) -> tuple[Store, Part]:
    store = Store(str(folder))
    with PartWriter(
        store, SCHEMA, unit="u", bucket=SMALL.name, row_group_bytes=group_bytes
    ) as writer:
        for piece in plain_rows(rows, SCHEMA, piece_bytes):
            writer.add(piece)
        [part] = writer.publish()
    return store, part


def test_a_shared_embedding_is_stored_once_in_a_row_group(tmp_path: Path) -> None:
    rows = packed_rows(clips=32, captions=4)
    store, part = write(tmp_path, rows, BYTES, 1 << 22)
    assert 4 * BYTES < part.bytes < 4.3 * BYTES
    with store.open(part.path) as file:
        parquet = pq.ParquetFile(file)
        assert parquet.num_row_groups == 1
        table = parquet.read()
    assert table.schema.field("text").type == pa.binary()
    assert table["text"].to_pylist() == rows["text"].to_pylist()


def test_row_groups_end_by_distinct_bytes_however_rows_arrive(tmp_path: Path) -> None:
    rows = packed_rows(clips=32, captions=8)
    cuts = []
    for piece_bytes in (1, 3 * BYTES, 1 << 30):
        store, part = write(tmp_path / str(piece_bytes), rows, piece_bytes, 2 * BYTES)
        with store.open(part.path) as file:
            footer = pq.ParquetFile(file).metadata
        cuts.append([footer.row_group(n).num_rows for n in range(footer.num_row_groups)])
    # Two captions fill a group, and all their clips are in it.
    assert cuts == [[8, 8, 8, 8]] * 3


def test_what_a_reader_expands_is_bounded(tmp_path: Path) -> None:
    rows = packed_rows(clips=40, captions=1)
    store, part = write(tmp_path, rows, 1 << 30, BYTES + 1)
    with store.open(part.path) as file:
        footer = pq.ParquetFile(file).metadata
    assert footer.row_group(0).num_rows == EXPANDED + 1
