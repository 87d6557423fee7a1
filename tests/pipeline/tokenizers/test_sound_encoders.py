from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.job import AudioConfig, SoundEncoderSpec
from pipeline.dataset.side_columns import sound_columns
from pipeline.decode import SoundRule
from pipeline.decode.sound_stream import encode_sound
from pipeline.errors import ConfigError
from pipeline.reading.columns import sound_cells
from pipeline.tokenizers.sound_encoders import (
    CLASSES,
    open_sound_encoder,
    same_sound_encoder,
    sound_encoder_faults,
    sound_identities,
)
from tests.lazy import diffusers, transformers
from tests.pipeline.tokenizers.small_codecs import RATE, save

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")

DIRECT = {
    "transformers:EncodecModel": lambda model, x: model.encode(x, bandwidth=5.0)[0][0, 0],
    "transformers:DacModel": lambda model, x: model.encode(x).audio_codes[0],
    "transformers:MimiModel": lambda model, x: model.encode(x).audio_codes[0],
    "diffusers:AutoencoderOobleck": lambda model, x: model.encode(x).latent_dist.mode()[0],
}


def audio(model: str, weights: Path, **more: Any) -> AudioConfig:
    spec = SoundEncoderSpec(name="codes", model=model, weights=str(weights))
    return AudioConfig.model_validate({"rate": RATE, "channels": 1, "encoders": [spec], **more})


@pytest.mark.parametrize("model", CLASSES)
def test_cells_are_those_of_a_direct_call(model: str, tmp_path: Path) -> None:
    settings = audio(model, save(tmp_path / "model", model))
    [made] = sound_identities(settings).values()
    column = sound_columns({**settings.identity(), "encoders": {"codes": made}})[-1]
    encoder = same_sound_encoder(settings.encoders[0], column, "cpu")
    samples = np.random.default_rng(0).integers(-9000, 9000, (17_001, 1), np.int16)
    stream = encode_sound(samples, SoundRule(codec="flac", rate=RATE, channels=1))
    package, _, name = model.partition(":")
    library = {"diffusers": diffusers, "transformers": transformers}[package]
    direct = getattr(library, name).from_pretrained(settings.encoders[0].weights).eval()
    with torch.inference_mode():
        waveform = torch.from_numpy(samples.T.astype(np.float32) / (1 << 15))
        expected = DIRECT[model](direct, waveform[None])
    assert expected.shape[0] == made["rows"] > 1
    stored = encoder.cells(stream, column)
    found = sound_cells([stored, stored], column)
    assert isinstance(found, torch.Tensor)
    for cells in found:
        assert torch.equal(cells, expected)
    assert len(expected.unique()) > 10
    assert encoder.cells(None, column) is None
    assert isinstance(sound_cells([stored, None], column), list)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    model = "transformers:DacModel"
    settings = audio(model, save(tmp_path / "model", model))
    [made] = sound_identities(settings).values()
    other = {**settings.identity(), "encoders": {"codes": {**made, "weights": "0" * 32}}}
    with pytest.raises(ConfigError, match="copy the same files to every node"):
        same_sound_encoder(settings.encoders[0], sound_columns(other)[-1], "cpu")


@pytest.mark.parametrize(("field", "value"), [("rate", 24_000), ("channels", 2)])
def test_sound_of_another_form_is_refused(field: str, value: int, tmp_path: Path) -> None:
    model = "transformers:DacModel"
    settings = audio(model, save(tmp_path / "model", model), **{field: value})
    with pytest.raises(ConfigError, match=rf"audio\.{field} = {value}: audio\.encoders\.0 takes"):
        sound_identities(settings)


def test_weights_that_are_none(tmp_path: Path) -> None:
    spec = SoundEncoderSpec(name="a", model="transformers:DacModel", weights=str(tmp_path))
    with pytest.raises(ConfigError, match=r"^encoder a: weights = "):
        open_sound_encoder(spec)


def test_encodec_that_scales_its_input_is_refused(tmp_path: Path) -> None:
    config = transformers.EncodecConfig(
        num_filters=4, hidden_size=16, codebook_dim=16, normalize=True, upsampling_ratios=[8, 8]
    )
    transformers.EncodecModel(config).save_pretrained(tmp_path)
    spec = SoundEncoderSpec(name="a", model="transformers:EncodecModel", weights=str(tmp_path))
    with pytest.raises(ConfigError, match="does not store the scales"):
        open_sound_encoder(spec)


def test_faults_of_the_settings(tmp_path: Path) -> None:
    wrong = audio("diffusers:AutoencoderKLLTX2Audio", tmp_path, codec="opus")
    first, second = map(str, sound_encoder_faults(wrong))
    assert "audio.encoders.0.model = diffusers:AutoencoderKLLTX2Audio: no supported" in first
    assert "audio.codec = opus: encoders take the sound as it is stored" in second
