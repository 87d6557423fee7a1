import re

import pytest
import torch

import vidtok
from tests.vidtok.goldens import configurations
from vidtok.presets import PRESETS, hub_path

RELEASED = configurations()
TINY = [
    f"vidtok_{name}_tiny{version}"
    for name in ("fsq_causal_488_262144", "kl_causal_488_8chn")
    for version in ("", "_v1_1")
]


def test_all_released_and_the_bundled_are_listed() -> None:
    assert set(vidtok.list_models()) == set(RELEASED) | set(TINY)
    assert len(RELEASED) == 23


@pytest.mark.parametrize("name", RELEASED)
def test_tensors_have_the_released_names_and_shapes(name: str) -> None:
    with torch.device("meta"):
        model = vidtok.Tokenizer(PRESETS[name])
    tensors = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert tensors == RELEASED[name]["tensors"]


@pytest.mark.parametrize("name", RELEASED)
def test_facts_are_the_released_ones(name: str) -> None:
    config, released = PRESETS[name], RELEASED[name]
    assert config.temporal_factor == released["temporal_factor"]
    assert config.spatial_factor == released["spatial_factor"]
    assert config.codebook_size == released["codebook_size"]
    frames = 17 if config.causal else 16
    expected = tuple(released[f"latent_shape_{frames}x256x256"])
    assert config.latent_shape(frames, 256, 256) == expected
    assert hub_path(name) == released["hub_path"]


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_are_the_same_architecture_in_a_few_megabytes(name: str) -> None:
    tiny = vidtok.build(name, seed=0)
    whole = RELEASED[name.partition("_tiny")[0]]["tensors"]
    # One pair of blocks per level where the released ones have two: nothing else is left out.
    missing = set(whole) - set(tiny.state_dict())
    assert set(tiny.state_dict()) < set(whole)
    assert all(re.search(r"\.(down|up)(_temporal)?\.\d\.block\.", f".{key}") for key in missing)
    assert sum(p.numel() for p in tiny.parameters()) * 2 < 6e6
    assert hub_path(name) is None
    assert tiny.config.network == ("causal_v1_1" if name.endswith("_v1_1") else "causal_v1_0")
