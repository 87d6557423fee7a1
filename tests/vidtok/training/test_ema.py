import pytest
import torch
from torch import nn

from tests.vidtok.training.recorded import losses
from vidtok.training.ema import averaged_model


def one_weight() -> nn.Linear:
    model = nn.Linear(1, 1)
    nn.init.ones_(model.weight)
    return model


def grow(model: nn.Linear) -> None:
    with torch.no_grad():
        model.weight += 1


def test_equals_the_reference() -> None:
    model = one_weight()
    averaged = averaged_model(model, 0.999)
    for expected in losses()["ema"]:
        grow(model)
        averaged.update_parameters(model)
        assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-6)


def test_a_restored_average_goes_on_as_if_never_stopped() -> None:
    model = one_weight()
    whole, first = averaged_model(model), averaged_model(model)
    for averaged in (whole, first):
        averaged.update_parameters(model)
    second = averaged_model(one_weight())
    second.load_state_dict(first.state_dict())
    grow(model)
    for averaged in (whole, second):
        averaged.update_parameters(model)
    assert torch.equal(whole.module.weight, second.module.weight)


def test_frozen_parameters_stay_bit_for_bit() -> None:
    model = nn.Linear(64, 64).requires_grad_(False)
    averaged = averaged_model(model)
    for _ in range(20):
        averaged.update_parameters(model)
    assert torch.equal(averaged.module.weight, model.weight)
    assert averaged.module.weight is not model.weight


def test_the_decay_is_reached_and_kept() -> None:
    model = one_weight()
    averaged = averaged_model(model, 0.5)
    for _ in range(20):
        averaged.update_parameters(model)
    grow(model)
    averaged.update_parameters(model)
    assert averaged.module.weight.item() == pytest.approx(1.5)
