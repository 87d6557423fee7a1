from functools import cache

import pytest
import torch
from torch import Tensor, nn

import vidtok
from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from tools.bundled_models import warm_start as module
from tools.bundled_models.warm_start import START_LOGVAR, warm_start
from vidtok import Tokenizer, TokenizerConfig, ops
from vidtok.evaluation.meter import score_clip
from vidtok.layers import Attention, ResBlock3d, SpatialBlock, TemporalBlock
from vidtok.temporal import Stream

NETWORKS = {"causal_v1_0": 9, "causal_v1_1": 10, "noncausal": 8}
"""Frames of a clip; for v1.1 a length that is filled up in front."""


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 2500)


def videos(network: str, seed: int, batch: int) -> Tensor:
    return synthetic_video(batch, NETWORKS[network], 32, 32, seed)


def drawn(network: str, regularizer: str) -> Tokenizer:
    """Width 8 and six latent channels for 768 values of a clip."""
    config = TokenizerConfig(
        name=f"{regularizer}_{network}",
        network=network,
        regularizer=regularizer,
        z_channels=6,
        fsq_levels=(8,) * 6 if regularizer == "fsq" else (),
        ch=8,
        num_res_blocks=1,
    )
    return vidtok.build(config, seed=0)


@cache
def fitted(network: str, regularizer: str) -> Tokenizer:
    tokenizer = drawn(network, regularizer)
    warm_start(tokenizer, videos(network, 1, batch=8).movedim(1, -1), seed=0)
    return tokenizer


def quality(tokenizer: Tokenizer, video: Tensor) -> float:
    """PSNR in dB."""
    encoded = tokenizer.encode(video)
    decoded = tokenizer.decode(encoded.latent, num_frames=video.shape[2])
    return float(score_clip(video, decoded)["psnr"].mean())


@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
@pytest.mark.parametrize("network", NETWORKS)
def test_clips_that_were_not_fitted_show(network: str, regularizer: str) -> None:
    other = videos(network, 2, batch=3)
    before = quality(drawn(network, regularizer), other)
    tokenizer = fitted(network, regularizer)
    assert quality(tokenizer, other) > before + 6
    encoded = tokenizer.encode(videos(network, 1, batch=8))
    if regularizer == "kl":
        assert torch.all(encoded.logvar == START_LOGVAR)
        assert 0.5 < encoded.mean.std() < 1.5
    else:
        levels = [encoded.latent[:, channel].unique().numel() for channel in range(6)]
        assert levels == [8] * 6


@pytest.mark.parametrize("network", NETWORKS)
def test_residual_branches_add_nothing_and_can_learn(network: str) -> None:
    tokenizer = fitted(network, "kl")
    last: list[nn.Module] = []
    for part in tokenizer.modules():
        if isinstance(part, SpatialBlock | TemporalBlock | ResBlock3d):
            last.append(part.conv2)
        elif isinstance(part, Attention):
            last.append(part.proj_out)
    assert len(last) > 10
    tensors = [tensor for layer in last for tensor in ops.weight_and_bias(layer)]
    assert not any(tensor.any() for tensor in tensors)

    x = videos(network, 1, batch=1)[:, :, : 8 if network == "noncausal" else 5].movedim(1, -1)
    rule = tokenizer.config.time_rule
    mean = tokenizer.encoder(x[:, -8:].contiguous(), Stream(rule)).chunk(2, -1)[0]
    gradients = torch.autograd.grad(tokenizer.decoder(mean, Stream(rule)).square().mean(), tensors)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_branches_that_were_drawn_are_silenced_too() -> None:
    tokenizer = small("causal_v1_0", "kl")
    warm_start(tokenizer, videos("causal_v1_0", 1, batch=2).movedim(1, -1))
    blocks = [part for part in tokenizer.modules() if isinstance(part, TemporalBlock)]
    assert not any(tensor.any() for b in blocks for tensor in ops.weight_and_bias(b.conv2))


def test_a_seed_decides_and_nothing_is_left_behind() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    tokenizers = []
    for seed in (0, 0, 1):
        tokenizers.append(drawn("noncausal", "fsq"))
        clips = videos("noncausal", 1, batch=2).movedim(1, -1)
        warm_start(tokenizers[-1], clips, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    states = [tokenizer.state_dict() for tokenizer in tokenizers]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])
    hooks = [(*m._forward_hooks, *m._forward_pre_hooks) for m in tokenizers[0].modules()]
    assert not any(hooks)


def test_more_channels_than_a_cell_has_components() -> None:
    """A cell of one pixel has three; the layer's other channels stay as they were drawn."""
    tokenizer = drawn("causal_v1_0", "fsq")
    start = tokenizer.encoder.conv_in.conv.weight.clone()
    warm_start(tokenizer, videos("causal_v1_0", 1, batch=2).movedim(1, -1))
    now = tokenizer.encoder.conv_in.conv.weight
    kept = [torch.equal(a, b) for a, b in zip(start, now, strict=True)]
    assert kept == [False] * 3 + [True] * 3 + [False] * 2
    assert all(tensor.isfinite().all() for tensor in tokenizer.state_dict().values())


@pytest.mark.parametrize(
    ("network", "shape", "says"),
    [
        ("causal_v1_0", (1, 8, 32, 32, 3), "frames = 8: .* use 5 or 9"),
        ("noncausal", (1, 9, 32, 32, 3), "frames = 9"),
        ("causal_v1_0", (1, 9, 30, 32, 3), "height = 30"),
        ("causal_v1_1", (1, 9, 32, 20, 3), "width = 20"),
    ],
)
def test_clips_that_the_network_does_not_take(
    network: str, shape: tuple[int, ...], says: str
) -> None:
    tokenizer = drawn(network, "kl")
    before = tokenizer.encoder.norm_out.norm.bias.clone()
    with pytest.raises(ValueError, match=says):
        warm_start(tokenizer, torch.zeros(shape))
    assert torch.equal(tokenizer.encoder.norm_out.norm.bias, before)
