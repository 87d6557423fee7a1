import pytest
import torch

from vidtok.training.adversarial import LeCam, adaptive_weight, generator_loss, hinge_loss


def test_the_generator_is_judged_by_the_mean_logit_of_each_picture() -> None:
    logits = torch.tensor([[[1.0, 3.0]], [[-2.0, 0.0]]])
    expected = (torch.tensor(-2.0).exp().log1p() + torch.tensor(1.0).exp().log1p()) / 2
    torch.testing.assert_close(generator_loss(logits), expected)


def test_logits_beyond_the_margin_cost_the_discriminator_nothing() -> None:
    assert hinge_loss(torch.tensor([1.0, 5.0]), torch.tensor([-1.0, -9.0])).item() == 0
    assert hinge_loss(torch.tensor([0.0]), torch.tensor([0.5])).item() == 0.5 * (1 + 1.5)


def test_the_scaled_loss_pulls_as_hard_as_the_other() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    strong, weak = 50 * weight.square().sum(), 2 * weight.sum()
    scale = adaptive_weight(strong, weak, weight)
    assert not scale.requires_grad
    pulls = [torch.autograd.grad(loss, weight)[0].norm().item() for loss in (strong, scale * weak)]
    assert pulls[0] == pytest.approx(pulls[1], rel=1e-3)


def test_the_scale_is_bounded() -> None:
    weight = torch.ones(1, requires_grad=True)
    assert adaptive_weight(1e9 * weight.sum(), 0 * weight.sum(), weight).item() == 1e4


def test_lecams_means_move_in_train_mode_only() -> None:
    lecam = LeCam()
    real, fake = torch.full((4,), 2.0), torch.full((4,), -1.0)
    penalty = lecam(real, fake)
    assert lecam.real.item() == pytest.approx(0.002)
    assert lecam.fake.item() == pytest.approx(-0.001)
    assert penalty.item() == pytest.approx(2.001**2 + 1.002**2)
    assert lecam.eval()(real, fake).item() == penalty.item()
    assert lecam.real.item() == pytest.approx(0.002)
