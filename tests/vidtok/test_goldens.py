"""Whole models against the public reference: weights and videos are drawn, results are recorded.

The reference in float32 and in float64 differ by 1.4e-5 at most, so 1e-4 is ample; a wrong detail
(an epsilon, a padding rule) shows at 5e-4 and more.
"""

import pytest
import torch

import vidtok
from tests.vidtok.deterministic import fill_weights, fingerprint, synthetic_video
from tests.vidtok.goldens import array, models

ATOL = 1e-4
BOUNDARY = 1e-3
"""An index may differ where a value stands this close to where it would round the other way."""

GOLDENS = sorted(models(), key=lambda golden: golden["config"])


@pytest.fixture(scope="module")
def models_by_name() -> dict[str, vidtok.Tokenizer]:
    return {}


def _model(golden: dict, kept: dict[str, vidtok.Tokenizer]) -> vidtok.Tokenizer:
    name = golden["config"]
    if name not in kept:
        kept.clear()  # goldens come sorted by configuration: one model in memory is enough
        kept[name] = vidtok.build(name)
        fill_weights(kept[name].state_dict(), golden["weight_seed"])
        for tensor, expected in golden["weight_sha256_16"].items():
            assert fingerprint(kept[name].state_dict()[tensor]) == expected
    return kept[name]


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden["id"])
def test_equals_the_reference(golden: dict, models_by_name: dict[str, vidtok.Tokenizer]) -> None:
    model = _model(golden, models_by_name)
    video = synthetic_video(**golden["video"])
    assert fingerprint(video) == golden["input_sha256_16"]
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
        clear = _away_from_boundaries(expected, model.config.fsq_levels)
        assert clear.float().mean() > 0.9
        assert torch.equal(encoded.indices[clear], indices[clear])
        decoded = model.decode_indices(indices, None, chunk, as_reference=True)
    else:
        torch.testing.assert_close(encoded.mean, latent, rtol=0, atol=ATOL)
        assert torch.equal(encoded.latent, encoded.mean)
        decoded = model.decode(latent, None, chunk, as_reference=True)
    pixels = array(golden["id"], "reconstruction_f32_every4")
    torch.testing.assert_close(decoded[:, :, ::4, ::4, ::4], pixels, rtol=0, atol=ATOL)


def _away_from_boundaries(output: torch.Tensor, levels: tuple[int, ...]) -> torch.Tensor:
    """Return where no channel of `[B, C, t, h, w]` stands next to a rounding boundary."""
    L = torch.tensor(levels, dtype=torch.float64).view(-1, 1, 1, 1)
    half = (L - 1) * 1.001 / 2
    offset = torch.where(L % 2 == 0, 0.5, 0.0)
    bounded = torch.tanh(output.double() + torch.atanh(offset / half)) * half - offset
    return (((bounded - bounded.floor()) - 0.5).abs() > BOUNDARY).all(1)
