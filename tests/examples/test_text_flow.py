"""A generator learns Wan-shaped latents from the texts that are joined to them."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

import pipeline
from examples.generators.clips import clip_buckets
from examples.text_flow import padded, train
from pipeline.dataset.cells import clip_rows
from pipeline.dataset.schema import clip_schema
from pipeline.errors import ConfigError
from pipeline.reading import Snapshot, TokenMap
from pipeline.storage.store import Store
from tests.examples.captioned_latents import (
    BUCKET,
    CAPTIONS,
    CLIPS,
    WAN,
    embeddings,
    latents_of,
    write_captioned,
    write_rows,
)
from tests.pipeline.units import make_clip


@pytest.fixture(scope="module")
def siblings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, Snapshot]:
    folder = tmp_path_factory.mktemp("siblings")
    stores = Store(str(folder / "latents")), Store(str(folder / "texts"))
    write_captioned(*stores)
    latents, texts = (pipeline.open(store.uri) for store in stores)
    return latents, texts


def test_texts_of_a_batch_are_padded_and_padding_is_not_read() -> None:
    tokens, counts = padded([torch.ones(1, 4), 2 * torch.ones(3, 4)])
    assert tokens.shape == (2, 3, 4)
    assert counts.tolist() == [[True, False, False], [True, True, True]]


def test_it_learns_what_the_text_says(siblings: tuple[Snapshot, Snapshot]) -> None:
    latents, texts = siblings
    generator, losses = train(latents, texts, steps=120, batch=8, width=64, depth=1, lr=3e-3)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    rows = TokenMap(latents.join(texts), ["wan", "text", "caption"])
    found = rows.__getitems__(list(range(CLIPS)))
    cells = torch.stack([row["wan"] for row in found])
    own = [row["text"] for row in found]
    wrong = {name: CAPTIONS[n - 1] for n, name in enumerate(CAPTIONS)}
    known = embeddings()
    others = [torch.from_numpy(known[wrong[row["caption"]]].cells) for row in found]

    def loss(captions: list[torch.Tensor], padding: float = 0.0) -> float:
        tokens, counts = padded(captions)
        torch.manual_seed(0)
        with torch.no_grad():
            filled = torch.where(counts[..., None], tokens, torch.tensor(padding))
            return generator(cells, filled, counts).mean().item()

    assert loss(own) < 0.5 * loss(others), "with the text of another clip it is lost"
    assert loss(own) == pytest.approx(loss(own, padding=9.0), rel=1e-4)


def test_a_bucket_without_texts_is_left_out(tmp_path: Path) -> None:
    stores = Store(str(tmp_path / "latents")), Store(str(tmp_path / "texts"))
    write_captioned(*stores)
    clips = [replace(make_clip("u-2", 0), caption=CAPTIONS[0])]
    rows = clip_rows(clips, {"wan": latents_of(clips)}, clip_schema([WAN]))
    write_rows(stores[0], WAN, "u-2", pa.Table.from_batches([rows]), bucket="9x32x32")
    latents, texts = (pipeline.open(store.uri) for store in stores)
    assert len(latents.buckets) == 2
    _, losses = train(latents, texts, steps=1, width=32, depth=1)
    assert len(losses) == 1


def test_there_must_be_clips_of_one_length(siblings: tuple[Snapshot, Snapshot]) -> None:
    latents, _ = siblings
    assert clip_buckets(latents) == [BUCKET]
    empty = pipeline.open(latents.store.uri, 0)
    with pytest.raises(ConfigError, match="no clips of one length to train on; buckets: none"):
        clip_buckets(empty)


def test_it_refuses_what_it_cannot_train_on(siblings: tuple[Snapshot, Snapshot]) -> None:
    latents, texts = siblings
    with pytest.raises(ConfigError, match="has no column of embeddings"):
        train(latents, latents, steps=1)
    with pytest.raises(ConfigError, match="--batch 100: both datasets together have too few"):
        train(latents, texts, steps=1, batch=100)
    with pytest.raises(ConfigError, match="--steps 0: must be 1 or more"):
        train(latents, texts, steps=0)
