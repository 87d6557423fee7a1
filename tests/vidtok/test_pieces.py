"""On a CPU, large activations go through the layers in pieces: the results must not show it.

A tiny `PIECE_BYTES` cuts small clips as the real one cuts clips of 17×256×256 pixels.
"""

import pytest
import torch
from torch import Tensor

from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import Tokenizer, half, ops

NETWORKS = ("causal_v1_0", "causal_v1_1", "noncausal")
WHOLE = 1 << 40


def results(
    model: Tokenizer, video: Tensor, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor]:
    """Return the KL mean of a clip, and what the decoder makes of a latent that is always equal."""
    monkeypatch.setattr(ops, "PIECE_BYTES", piece_bytes)
    mean = model.encode(video).latent
    latent = torch.linspace(-1, 1, mean.numel()).view_as(mean)
    return mean, model.decode(latent, video.shape[2]).float()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("piece_bytes", [200, 5000])
@pytest.mark.parametrize("network", NETWORKS)
def test_pieces_equal_the_whole(
    network: str, piece_bytes: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(network, "kl")
    video = synthetic_video(batch, 17 if model.config.causal else 16, 16, 24)
    pieces = results(model, video, piece_bytes, monkeypatch)
    for found, expected in zip(pieces, results(model, video, WHOLE, monkeypatch), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_half_precision_in_pieces_equals_the_whole(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "cpu_is_fast", lambda dtype: True)
    model = small(network, "kl").bfloat16()
    video = synthetic_video(1, 17 if model.config.causal else 16, 16, 24)
    pieces = results(model, video, 1000, monkeypatch)
    for found, expected in zip(pieces, results(model, video, WHOLE, monkeypatch), strict=True):
        assert (found - expected).std() < 0.02 * expected.std()


@pytest.mark.parametrize("network", NETWORKS)
def test_pieces_of_wide_layers_equal_the_whole(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 64 channels on convolutions go by Winograd, with buffers that pieces share."""
    model = small(network, "kl", ch=64, ch_mult=(1, 1, 1))
    video = synthetic_video(1, 9 if model.config.causal else 8, 64, 68)
    pieces = results(model, video, 60_000, monkeypatch)
    for found, expected in zip(pieces, results(model, video, WHOLE, monkeypatch), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)


def test_chunks_in_pieces_equal_the_whole_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("causal_v1_1", "kl")
    video = synthetic_video(1, 22, 24, 32)
    mean, frames = results(model, video, WHOLE, monkeypatch)
    latent = torch.linspace(-1, 1, mean.numel()).view_as(mean)
    monkeypatch.setattr(ops, "PIECE_BYTES", 5000)
    found = model.encode(video, chunk_frames=8).latent
    torch.testing.assert_close(found, mean, rtol=0, atol=2e-5)
    found = model.decode(latent, 22, chunk_frames=8)
    torch.testing.assert_close(found, frames, rtol=0, atol=2e-5)
