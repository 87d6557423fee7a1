from copy import deepcopy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vidtok
from tests.vidtok.deterministic import synthetic_video
from tools.bundled_models import redraw_blocks as module
from tools.bundled_models.redraw_blocks import Block, redraw_blocks
from tools.bundled_models.warm_start import warm_start
from vidtok import Tokenizer, ops
from vidtok.reference import lengthen
from vidtok.temporal import Stream


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 5000)


def clips() -> Tensor:
    return synthetic_video(6, 9, 32, 32, seed=3).movedim(1, -1).contiguous()


def linear(regularizer: str) -> Tokenizer:
    """A fitted tokenizer whose blocks give a little."""
    return deepcopy(_linear(regularizer))


@cache
def _linear(regularizer: str) -> Tokenizer:
    config = vidtok.TokenizerConfig(
        name=regularizer,
        network="causal_v1_0",
        regularizer=regularizer,
        z_channels=4,
        fsq_levels=(8,) * 4 if regularizer == "fsq" else (),
        ch=8,
        num_res_blocks=1,
    )
    model = vidtok.build(config, seed=0)
    warm_start(model, clips())
    generator = torch.Generator().manual_seed(1)
    for block in blocks(model):
        weight = ops.weight_and_bias(block.conv2)[0].data
        weight.copy_(torch.randn(weight.shape, generator=generator) * 0.002)
    return model


def blocks(model: Tokenizer) -> list[Block]:
    return [part for part in model.modules() if isinstance(part, Block)]


def spreads(model: Tokenizer) -> list[float]:
    """Return, for every norm in a block, the median over channels of the spread behind it."""
    found: list[float] = []

    def behind(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        y = norm.norm(inputs[0]).flatten(0, -2)
        found.append(float(y.detach().std(0).median()))

    norms = [norm for block in blocks(model) for norm in (block.norm1, block.norm2)]
    hooks = [norm.register_forward_pre_hook(behind) for norm in norms]
    with torch.enable_grad():  # without gradients, blocks write into their windows themselves
        stream = Stream(model.config.time_rule)
        model.encoder(lengthen(model.config, clips()), stream)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
def test_blocks_get_inputs_of_even_scale_and_the_model_stays_as_it_was(regularizer: str) -> None:
    model = linear(regularizer)
    video = clips().movedim(-1, 1)
    before = model.decode(model.encode(video).latent, num_frames=9)
    assert min(spreads(model)) < 0.5
    redraw_blocks(model, clips())
    assert min(spreads(model)) > 0.8
    after = model.decode(model.encode(video).latent, num_frames=9)
    lost = F.mse_loss(after, video) / F.mse_loss(before, video)
    assert lost < 1.3


def test_only_blocks_change_and_a_seed_draws_the_same() -> None:
    before, one, same, other = (linear("kl") for _ in range(4))
    for model, seed in ((one, 0), (same, 0), (other, 1)):
        redraw_blocks(model, clips(), seed=seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    inside = {id(p) for block in blocks(one) for p in block.parameters()}
    shortcuts = {id(p) for name, p in one.named_parameters() if "shortcut" in name}
    names = [name for name, p in one.named_parameters() if id(p) in inside - shortcuts]
    states = [model.state_dict() for model in (before, one, other)]
    changed = {name for name in states[0] if not torch.equal(states[0][name], states[1][name])}
    assert changed == set(names)
    assert not torch.equal(states[1][f"{names[2]}"], states[2][f"{names[2]}"])


def test_clips_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="frames = 8"):
        redraw_blocks(linear("kl"), clips()[:, :8])
