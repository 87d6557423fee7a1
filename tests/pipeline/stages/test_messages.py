"""A row holds each text of its clips once, and what comes out of it is what went in."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset.cells import clip_rows
from pipeline.dataset.schema import packed_schema
from pipeline.records import Clip, to_json
from pipeline.stages.messages import (
    BatchHeader,
    BatchRow,
    decode_rows,
    decoded_row,
    encode_rows,
    plain_rows,
    read_decoded_row,
)
from tests.pipeline.units import SCHEMA, SMALL, make_cells, make_clip

BIG = json.dumps({"info": "x" * 1_000_000})
texts = (
    st.none() | st.sampled_from(["", "a", "é", "x" * 50]) | st.text(st.characters(codec="utf-8"))
)


def clips_of(pairs: list[tuple[str | None, str | None]]) -> list[Clip]:
    return [
        replace(make_clip("u-1", n), caption=caption, meta=meta)
        for n, (caption, meta) in enumerate(pairs)
    ]


def header_of(clips: list[Clip]) -> BatchHeader:
    return BatchHeader(unit="u-1", seq=0, bucket=SMALL, clips=tuple(clips))


@given(st.lists(st.tuples(texts, texts), max_size=6), st.integers(1, 40))
def test_texts_come_back(pairs: list[tuple[str | None, str | None]], max_bytes: int) -> None:
    clips = clips_of(pairs)
    header = header_of(clips)
    row = decoded_row(BatchRow(header, np.zeros((len(clips), 1, 1, 1, 3), np.uint8)))
    back = read_decoded_row(row)
    assert isinstance(back, BatchRow)
    assert back.header == header
    assert back.header.digest() == header.digest()
    cells = make_cells(clips, SMALL)
    table = decode_rows(encode_rows(clip_rows(clips, cells, packed_schema(SCHEMA))))
    pieces = list(plain_rows(table, SCHEMA, max_bytes))
    assert all(piece.schema.equals(SCHEMA, check_metadata=True) for piece in pieces)
    wanted = pa.Table.from_batches([clip_rows(clips, cells, SCHEMA)])
    assert pa.concat_tables(pieces).to_pylist() == wanted.to_pylist()


def test_a_digest_shows_another_text() -> None:
    digests = {
        header_of(clips_of(pairs)).digest()
        for pairs in ([("a", "b")] * 2, [("b", "a")] * 2, [("a", "b"), ("a", None)], [(None, "b")])
    }
    assert len(digests) == 4


@pytest.mark.parametrize("count", [1, 64])
def test_a_large_text_weighs_once(count: int) -> None:
    clips = clips_of([("a dog", BIG)] * count)
    header = header_of(clips)
    assert len(header.to_json()) < len(to_json(BIG)) + 1000 * count
    rows = encode_rows(clip_rows(clips, make_cells(clips, SMALL), packed_schema(SCHEMA)))
    assert len(rows) < len(BIG) + 10_000 * count
    table = decode_rows(rows)
    pieces = list(plain_rows(table, SCHEMA, 4 << 20))
    assert sum(piece.num_rows for piece in pieces) == count
    assert max(piece.num_rows for piece in pieces) <= 5
    assert all(piece["meta"].to_pylist() == [BIG] * piece.num_rows for piece in pieces)
