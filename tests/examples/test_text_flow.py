"""A generator learns Wan-shaped latents from the texts that are joined to them."""

import pytest
import torch

import pipeline
from examples.text_flow import padded, train
from pipeline.errors import ConfigError
from pipeline.reading import Snapshot, TokenMap
from pipeline.storage.store import Store
from tests.examples.captioned_latents import CAPTIONS, CLIPS, embeddings, write_captioned


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


def test_it_refuses_what_it_cannot_train_on(siblings: tuple[Snapshot, Snapshot]) -> None:
    latents, texts = siblings
    with pytest.raises(ConfigError, match="has no column of embeddings"):
        train(latents, latents, steps=1)
    with pytest.raises(ConfigError, match="--batch 100: both datasets together have too few"):
        train(latents, texts, steps=1, batch=100)
