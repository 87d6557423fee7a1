from copy import deepcopy
from functools import cache

import pytest
import torch
from torch import Tensor

import vidtok
from tests.vidtok.deterministic import synthetic_video
from tools.bundled_models import warm_start as module
from tools.bundled_models.even_levels import bound, center, even_levels
from tools.bundled_models.warm_start import warm_start
from vidtok.autoencoder import Tokenizer
from vidtok.evaluation.codebook import CodebookUse
from vidtok.fsq import quantize


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 5000)


def clips() -> Tensor:
    return synthetic_video(8, 9, 32, 32, seed=3).permute(0, 2, 3, 4, 1).contiguous()


def narrow(network: str, frames: int) -> Tokenizer:
    """A fitted tokenizer whose latents are squeezed into the middle levels."""
    return deepcopy(_narrow(network, frames))


@cache
def _narrow(network: str, frames: int) -> Tokenizer:
    config = vidtok.TokenizerConfig(
        name="narrow",
        network=network,
        regularizer="fsq",
        z_channels=4,
        fsq_levels=(8, 8, 8, 8),
        ch=8,
        num_res_blocks=1,
    )
    model = vidtok.build(config, seed=0)
    warm_start(model, clips()[:, :frames])
    conv = model.encoder.conv_out
    conv = conv.conv if hasattr(conv, "conv") else conv
    with torch.no_grad():
        conv.weight *= 0.4
        conv.bias *= 0.4
        conv.bias += 0.1
    return model


def bits(model: Tokenizer, frames: int) -> float:
    use = CodebookUse(model.config.fsq_levels)
    use.update(model.encode(clips()[:, :frames].permute(0, 4, 1, 2, 3)).indices)
    return use.summary()["channel_bound_bits"]


def error(model: Tokenizer, frames: int) -> float:
    video = clips()[:, :frames].permute(0, 4, 1, 2, 3)
    decoded = model.decode(model.encode(video).latent, num_frames=frames)
    return float((decoded - video).square().mean())


@pytest.mark.parametrize(
    ("network", "frames"), [("causal_v1_0", 9), ("causal_v1_1", 9), ("noncausal", 8)]
)
def test_squeezed_latents_get_their_levels_back(network: str, frames: int) -> None:
    model = narrow(network, frames)
    before, blur = bits(model, frames), error(model, frames)
    even_levels(model, clips()[:, :frames])
    assert bits(model, frames) > before + 1.5
    assert error(model, frames) < blur


def test_only_the_layers_beside_the_codes_change() -> None:
    model = narrow("causal_v1_0", 9)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    even_levels(model, clips())
    changed = {n for n, tensor in model.state_dict().items() if not torch.equal(tensor, before[n])}
    assert changed == {
        "encoder.conv_out.conv.weight",
        "encoder.conv_out.conv.bias",
        "decoder.conv_in.conv.weight",
        "decoder.conv_in.conv.bias",
    }


def test_kl_and_clips_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="is a KL tokenizer and has no levels"):
        even_levels(vidtok.build("vidtok_kl_causal_488_8chn_tiny", seed=0), clips())
    with pytest.raises(ValueError, match="frames = 8"):
        even_levels(narrow("causal_v1_0", 9), clips()[:, :8])


@pytest.mark.parametrize("levels", [(8,), (5,), (2,), (8, 5, 3)])
def test_rounding_is_all_that_quantize_adds_to_bound(levels: tuple[int, ...]) -> None:
    z = 3 * torch.randn(200, len(levels), generator=torch.Generator().manual_seed(0))
    width = torch.tensor([level // 2 for level in levels])
    smooth = bound(z, levels)
    assert torch.equal((smooth * width).round() / width, quantize(z, levels))


@pytest.mark.parametrize("level", [2, 3, 5, 8])
def test_the_center_has_as_many_levels_on_either_side(level: int) -> None:
    middle = bound(torch.tensor([[-center(level)]]), (level,))
    ends = quantize(torch.tensor([[-50.0], [50.0]]), (level,))
    assert float(middle) == pytest.approx(float(ends.mean()), abs=2e-3)
