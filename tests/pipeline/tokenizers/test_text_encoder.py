"""Text encoders of transformers: the embeddings are those of a direct call, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.embed import EmbedderSpec
from pipeline.errors import ConfigError
from pipeline.tokenizers.text_encoder import TextEncoder, load_encoder, open_text_encoder
from tests.pipeline.text_models import CAPTIONS, CONFIGS, called, save_text_model, save_tokenizer


def spec(folder: Path, name: str = "T5EncoderModel", **values: Any) -> EmbedderSpec:
    known = {"name": "text", "model": f"transformers:{name}", "weights": str(folder)}
    return EmbedderSpec.model_validate({**known, "dtype": "float32", "max_tokens": 24, **values})


def loaded(settings: EmbedderSpec) -> TextEncoder:
    opened = open_text_encoder(settings)
    return load_encoder(settings, opened.column, weights=opened.digest, device="cpu")


@pytest.mark.parametrize("name", CONFIGS)
def test_embeddings_are_those_of_the_library(tmp_path: Path, name: str) -> None:
    folder = save_text_model(tmp_path, name)
    encoder = loaded(spec(folder, name))
    for text in [*CAPTIONS, "cut " * 40]:
        output = called(folder, name, text, max_tokens=24)
        found = encoder(text)
        assert np.array_equal(found.cells, output.last_hidden_state[0].numpy())
        assert found.ids[-1] == 2
        assert len(found.ids) == len(found.cells) <= 24
    assert len(encoder("cut " * 40).ids) == 24


def test_one_vector_of_a_caption(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path, "CLIPTextModel")
    pooled = loaded(spec(folder, "CLIPTextModel", pooled=True))(CAPTIONS[0])
    wanted = called(folder, "CLIPTextModel", CAPTIONS[0]).pooler_output
    assert np.array_equal(pooled.cells, wanted.numpy())


def test_half_precision_is_the_librarys(tmp_path: Path) -> None:
    import transformers

    folder = save_text_model(tmp_path)
    model = transformers.UMT5EncoderModel.from_pretrained(folder, dtype=torch.bfloat16)
    found = loaded(spec(folder, "UMT5EncoderModel", precision="bf16"))(CAPTIONS[1])
    ids = torch.tensor([found.ids])
    with torch.no_grad():
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert np.array_equal(found.cells, output.last_hidden_state[0].float().numpy())


def test_the_tokenizer_is_found_as_diffusers_lays_it_out(tmp_path: Path) -> None:
    save_text_model(tmp_path / "pipe/text_encoder_2", "T5EncoderModel")
    words = tmp_path / "pipe/tokenizer_2"
    words.mkdir()
    for file in (tmp_path / "pipe/text_encoder_2").glob("tokenizer*"):
        shutil.move(file, words)
    settings = spec(tmp_path / "pipe/text_encoder_2")
    assert loaded(settings)(CAPTIONS[0]).ids[-1] == 2
    named = settings.model_copy(update={"tokenizer": str(words)})
    assert open_text_encoder(named).digest == open_text_encoder(settings).digest
    shutil.rmtree(words)
    with pytest.raises(ConfigError, match=r"no tokenizer there, .* set tokenizer to its folder"):
        open_text_encoder(settings)
    save_tokenizer(words)


def test_captions_longer_than_the_model_takes_are_refused_before_the_run(tmp_path: Path) -> None:
    folder = save_text_model(tmp_path, "CLIPTextModel")
    with pytest.raises(ConfigError, match=r"max_tokens = 25: .* takes at most 24"):
        open_text_encoder(spec(folder, "CLIPTextModel", max_tokens=25))


def test_an_embedding_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    import transformers

    folder = save_text_model(tmp_path, "T5EncoderModel")
    model = transformers.T5EncoderModel.from_pretrained(folder)
    with torch.no_grad():
        model.encoder.final_layer_norm.weight.fill_(1e30)
    model.save_pretrained(folder)
    loaded(spec(folder))(CAPTIONS[0])
    with pytest.raises(ConfigError, match=r"a short text: .*NaN or infinity in the embedding of"):
        open_text_encoder(spec(folder, dtype="float16"))


def test_other_files_on_a_node_are_refused(tmp_path: Path) -> None:
    settings = spec(save_text_model(tmp_path, "T5EncoderModel"))
    opened = open_text_encoder(settings)
    save_text_model(tmp_path, "T5EncoderModel", seed=1)
    with pytest.raises(ConfigError, match="copy the same files to every node"):
        load_encoder(settings, opened.column, weights=opened.digest, device="cpu")
