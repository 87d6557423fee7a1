"""No call of a kernel gets more elements than it counts without an error.

The `meta` device takes the branches of a GPU and computes nothing, so the released sizes are tried.
"""

import pytest
import torch

import vidtok
from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.operations import Operations
from tests.vidtok.small import small
from vidtok import ops
from vidtok.presets import PRESETS

HEAVY = ("convolution", "native_layer_norm", "silu", "silu_", "_log_softmax")
"""Kernels that have counted in 32 bits. Elementwise kernels split their work themselves."""


def calls(model: vidtok.Tokenizer, batch: int, height: int, width: int) -> list[dict[str, int]]:
    """Return the largest tensor by operation, of encoding and of decoding a batch of clips."""
    config, found = model.config, []
    frames = 17 if config.causal else 16
    z = (batch, *config.latent_shape(frames, height, width))
    with Operations() as operations:
        model.encode(torch.zeros(batch, 3, 1, 1, 1).expand(-1, -1, frames, height, width))
    found.append(operations.largest)
    with Operations() as operations:
        model.decode(torch.empty(z, device="meta"), frames)
    found.append(operations.largest)
    return found


RELEASED = (
    "vidtok_fsq_causal_488_32768",
    "vidtok_kl_causal_444_4chn",
    "vidtok_fsq_causal_888_32768_v1_1",
    "vidtok_kl_causal_288_8chn_v1_1",
    "vidtok_kl_noncausal_41616_16chn",
)


def on_meta(name: str) -> vidtok.Tokenizer:
    with torch.device("meta"):
        return vidtok.Tokenizer(PRESETS[name]).eval()


@pytest.mark.parametrize("name", RELEASED)
def test_a_batch_is_split_before_any_tensor_is_too_large(name: str) -> None:
    for found in calls(on_meta(name), 7, 256, 256):
        too_large = {op: n for op, n in found.items() if n > ops.MAX_ELEMENTS}
        assert not too_large


def test_batches_are_not_smaller_than_they_must_be() -> None:
    for found in calls(on_meta(RELEASED[0]), 4, 256, 256):
        assert max(found.values()) > ops.MAX_ELEMENTS / 4


@pytest.mark.parametrize("name", RELEASED[1:4])
def test_a_large_clip_goes_through_the_heavy_kernels_in_pieces(name: str) -> None:
    for found in calls(on_meta(name), 1, 704, 1280):
        assert max(found.values()) > ops.MAX_ELEMENTS
        assert max(found.get(op, 0) for op in HEAVY) <= ops.MAX_ELEMENTS


def test_without_a_limit_they_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = ops.MAX_ELEMENTS
    monkeypatch.setattr(ops, "MAX_ELEMENTS", 1 << 62)
    for found in calls(on_meta(RELEASED[0]), 8, 256, 256):
        assert found["convolution"] > limit
        assert found["native_layer_norm"] > limit


@pytest.mark.parametrize("network", ["causal_v1_0", "causal_v1_1", "noncausal"])
@pytest.mark.parametrize("limit", [3000, 30_000])
def test_pieces_and_batches_give_the_same_values(
    network: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU takes the branches of an accelerator here."""
    monkeypatch.setattr(ops, "is_cpu", lambda _: False)
    model = small(network, "kl")
    video = synthetic_video(2, 17 if model.config.causal else 16, 16, 24)
    latent = model.encode(video).latent
    frames = model.decode(latent, video.shape[2])
    monkeypatch.setattr(ops, "MAX_ELEMENTS", limit)
    with Operations() as operations:
        torch.testing.assert_close(model.encode(video).latent, latent, rtol=0, atol=2e-5)
        torch.testing.assert_close(model.decode(latent, video.shape[2]), frames, rtol=0, atol=2e-5)
    assert operations.largest["native_layer_norm"] <= limit
