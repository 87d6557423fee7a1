"""Kernels computed from parameters are kept, but never outlive a change of the parameters."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.vidtok.deterministic import fill_weights, synthetic_video
from tests.vidtok.small import small
from vidtok import Tokenizer
from vidtok.derived import Derived


class Doubled(nn.Module):
    """A layer whose kernel is twice its parameter; it counts how often that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 0.1))
        self.derived = Derived()
        self.times = 0

    def compute(self, weight: Tensor) -> Tensor:
        self.times += 1
        return weight * 2

    def forward(self) -> Tensor:
        return self.derived(self.compute, self.weight)


def step(layer: Doubled, **how: bool) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), **how)
    layer().sum().backward()
    optimizer.step()


CHANGES: dict[str, Callable[[Doubled], object]] = {
    "load_state_dict": lambda layer: layer.load_state_dict({"weight": torch.full((3,), 5.0)}),
    "assign": lambda layer: layer.load_state_dict({"weight": torch.ones(3) * 5}, assign=True),
    "dtype": lambda layer: layer.to(torch.bfloat16),
    "device": lambda layer: layer.to("meta"),
    "there and back": lambda layer: layer.to(torch.bfloat16).to(torch.float32),
    "optimizer": step,
    "fused optimizer, which counts nothing": lambda layer: step(layer, fused=True),
    "in place": torch.no_grad()(lambda layer: layer.weight.mul_(3)),
    "data": lambda layer: setattr(layer.weight, "data", torch.full((3,), 7.0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str) -> None:
    layer = Doubled()
    with torch.no_grad():
        assert layer() is layer()
        assert layer.times == 1
    CHANGES[change](layer)
    with torch.no_grad():
        found = layer()
        assert (found.dtype, found.device) == (layer.weight.dtype, layer.weight.device)
        if change == "device":
            return
        assert torch.equal(found, layer.weight * 2)


def test_with_gradients_nothing_is_kept() -> None:
    layer = Doubled()
    layer().sum().backward()
    assert layer().requires_grad
    assert layer.times == 2
    assert layer.weight.grad is not None


def test_weights_made_in_inference_mode_are_never_kept() -> None:
    with torch.inference_mode():
        layer = Doubled()
        layer()
        layer.weight.mul_(4)
        assert torch.equal(layer(), layer.weight * 2)


def test_it_is_no_part_of_a_state_a_copy_or_a_pickled_layer() -> None:
    layer = Doubled()
    with torch.no_grad():
        layer()
        assert list(layer.state_dict()) == ["weight"]
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            other.weight.mul_(2)
            assert torch.equal(other(), other.weight * 2)
            assert torch.equal(layer(), layer.weight * 2)


def decoded(model: Tokenizer) -> Tensor:
    return model.decode(torch.linspace(-1, 1, 24).view(1, 3, 2, 2, 2))


@pytest.mark.parametrize("network", ["causal_v1_0", "causal_v1_1", "noncausal"])
def test_a_model_follows_its_parameters(network: str) -> None:
    """Every layer of a network: after other weights it computes what a new network computes."""
    model, fresh = small(network, "kl"), small(network, "kl")
    video = synthetic_video(1, 9 if model.config.causal else 8, 16, 16)
    before = model.encode(video).latent, decoded(model)
    weights = {name: torch.empty_like(value) for name, value in model.state_dict().items()}
    fill_weights(weights, seed=1)
    for other in (model, fresh):
        other.load_state_dict(weights)
    after = model.encode(video).latent, decoded(model)
    assert not torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])
    assert torch.equal(after[0], fresh.encode(video).latent)
    assert torch.equal(after[1], decoded(fresh))
