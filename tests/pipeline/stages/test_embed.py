"""Embedding a row: each caption once, and who is to blame for an error."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.dataset.embeddings import Embedding
from pipeline.stages.embed import EmbedStage
from pipeline.stages.messages import BatchHeader, BatchRow, decode_rows
from pipeline.stages.tokenize import TokenizerBroken
from pipeline.tokenizers.text_encoder import PROBE
from tests.pipeline.dataset.test_embeddings import TEXT
from tests.pipeline.units import SMALL, make_clip


class Encoder:
    """Encodes a text as its length; `fails` names texts, and the errors that they raise."""

    column = TEXT

    def __init__(self, **fails: Exception) -> None:
        self.calls: list[str] = []
        self._fails = fails

    def __call__(self, text: str) -> Embedding:
        self.calls.append(text)
        if error := self._fails.get(text.replace(" ", "_")):
            raise error
        return Embedding((1, 2), np.full((2, 3), len(text), np.uint16))


def row(*captions: str | None, seq: int = 0) -> BatchRow:
    clips = tuple(replace(make_clip("u", n), caption=text) for n, text in enumerate(captions))
    header = BatchHeader(unit="u", seq=seq, bucket=SMALL, clips=clips)
    return BatchRow(header, np.zeros((1, 1, 1, 1, 3), np.uint8))


def stage(encoder: Encoder) -> EmbedStage:
    return EmbedStage([encoder])  # type: ignore[list-item]


def test_a_caption_is_encoded_once_also_across_rows() -> None:
    encoder = Encoder()
    embed = stage(encoder)
    payloads = [embed(row("a", "a", None)), embed(row("", "b", "b", seq=1)), embed(row("a", seq=2))]
    # The embedding of the row before is kept, and none of an earlier row.
    assert encoder.calls == ["a", "", "b", "a"]
    tables = [decode_rows(payload.rows).to_pylist() for payload in payloads]
    lengths = [[len(r["text"]) and r["text"][0] for r in table] for table in tables]
    assert lengths == [[1, 1, 0], [0, 1, 1], [1]]
    assert [r["caption"] for r in tables[0]] == ["a", "a", None]
    assert all(r["text_shape"] == [2, 3] and r["text_ids"] == [1, 2] for r in tables[0])


@pytest.mark.parametrize("error", [ValueError("NaN"), RuntimeError("out of memory")])
def test_a_caption_that_fails_alone_is_to_blame(error: Any) -> None:
    with pytest.raises(type(error)) as caught:
        stage(Encoder(bad=error))(row("good", "bad"))
    assert caught.value is error


def test_an_encoder_that_fails_on_any_text_is_broken() -> None:
    gone = RuntimeError("CUDA error: device lost")
    broken = Encoder(text=gone, **{PROBE.replace(" ", "_"): gone})
    with pytest.raises(TokenizerBroken, match="device lost; and on 'a video': RuntimeError"):
        stage(broken)(row("text"))
