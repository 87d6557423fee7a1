import pytest
import torch
from torch import nn

from tests.vidtok.training.recorded import losses
from vidtok.training.ema import MovingAverage


def one_weight() -> nn.Linear:
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    return model


def grow(model: nn.Linear) -> None:
    with torch.no_grad():
        model.weight += 1


def test_equals_the_reference() -> None:
    model = one_weight()
    average = MovingAverage(model, 0.999)
    for step, expected in enumerate(losses()["ema"]):
        grow(model)
        average.update(model, step)
        assert average.model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_frozen_parameters_stay_bit_for_bit() -> None:
    model = nn.Linear(64, 64)
    model.weight.requires_grad_(False)
    average = MovingAverage(model)
    bias = model.bias.detach().clone()
    for step in range(20):
        with torch.no_grad():
            model.bias += 1
        average.update(model, step)
    assert torch.equal(average.model.weight, model.weight)
    assert average.model.weight is not model.weight
    assert not torch.equal(average.model.bias, bias)
    MovingAverage(model.requires_grad_(False)).update(model, 0)


def test_the_decay_is_reached_and_kept() -> None:
    model = one_weight()
    average = MovingAverage(model, 0.5)
    for step in range(20):
        average.update(model, step)
    grow(model)
    average.update(model, 20)
    assert average.model.weight.item() == pytest.approx(1.5)
