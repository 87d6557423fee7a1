"""Whole models against the public reference: weights and videos are drawn, results are recorded.

One case of each of the three networks has the released width, all others a base width of 16.
The reference in float32 and in float64 differ by 1.4e-5 at most, so 1e-4 is ample; a wrong detail
(an epsilon, a padding rule) shows at 5e-4 and more.
"""

from dataclasses import replace

import pytest
import torch

from tests.vidtok.deterministic import fill_weights, synthetic_video
from tests.vidtok.goldens import array, models
from vidtok import Tokenizer, build
from vidtok.presets import named_config

ATOL = 1e-4
DRAWN = 2e-6
"""Drawn values differ by rounding: the kernel that draws depends on the processor."""
BOUNDARY = 1e-3
"""An index can differ where a value is this close to a rounding boundary."""


def filled(golden: dict) -> Tokenizer:
    """Return the network of a case with its drawn weights."""
    config = named_config(golden["config"])
    with torch.device("meta"):  # nothing is drawn only to be overwritten
        model = build(replace(config, ch=golden.get("ch", config.ch)))
    model = model.to_empty(device="cpu")
    assert model.state_dict().keys() == {
        *dict(model.named_parameters()),
        *dict(model.named_buffers()),
    }
    fill_weights(model.state_dict(), golden["weight_seed"])
    for name, expected in golden["first_weights"].items():
        assert model.state_dict()[name].flatten()[:4].tolist() == pytest.approx(expected, abs=DRAWN)
    return model


CASES = [
    pytest.param(golden, id=golden["id"], marks=() if "ch" in golden else pytest.mark.slow)
    for golden in models()
]


@pytest.mark.parametrize("golden", CASES)
def test_equals_the_reference(golden: dict) -> None:
    model = filled(golden)
    video = synthetic_video(**golden["video"])
    assert video.flatten()[:4].tolist() == pytest.approx(golden["first_pixels"], abs=DRAWN)
    tiling = golden["tiling"]
    chunk = tiling and tiling["t_chunk_enc"]

    seen: list[torch.Tensor] = []
    hook = model.encoder.register_forward_hook(lambda *args: seen.append(args[2]))
    encoded = model.encode(video, chunk, as_reference=True)
    hook.remove()

    output = torch.cat(seen, 1).movedim(-1, 1)
    expected = array(golden["id"], "encoder_output")
    torch.testing.assert_close(output, expected, rtol=0, atol=ATOL)
    latent = array(golden["id"], "latent")
    if latent is None:
        indices = array(golden["id"], "indices")
        clear = away_from_boundaries(expected, model.config.fsq_levels)
        assert clear.float().mean() > 0.9
        assert torch.equal(encoded.indices[clear], indices[clear])
        decoded = model.decode_indices(indices, None, chunk, as_reference=True)
    else:
        torch.testing.assert_close(encoded.mean, latent, rtol=0, atol=ATOL)
        assert torch.equal(encoded.latent, encoded.mean)
        decoded = model.decode(latent, None, chunk, as_reference=True)
    pixels = array(golden["id"], "reconstruction_f32_every4")
    torch.testing.assert_close(decoded[:, :, ::4, ::4, ::4], pixels, rtol=0, atol=ATOL)


def away_from_boundaries(output: torch.Tensor, levels: tuple[int, ...]) -> torch.Tensor:
    """Return where no channel of `[B, C, t, h, w]` is close to a rounding boundary."""
    L = torch.tensor(levels, dtype=torch.float64).view(-1, 1, 1, 1)
    half = (L - 1) * 1.001 / 2
    offset = torch.where(L % 2 == 0, 0.5, 0.0)
    bounded = torch.tanh(output.double() + torch.atanh(offset / half)) * half - offset
    return (((bounded - bounded.floor()) - 0.5).abs() > BOUNDARY).all(1)
