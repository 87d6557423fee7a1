import pytest
import torch
from torch import Tensor

from tests.vidtok.deterministic import unit_normal
from vidtok.training.once import with_gradient_once


class Counted(torch.autograd.Function):
    """The identity, which counts how often a gradient passes through."""

    passes = 0

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        Counted.passes += 1
        return gradient


def loss(x: Tensor) -> Tensor:
    return (Counted.apply(x).sin() * x).sum()


def test_two_backward_passes_share_one_gradient() -> None:
    weight = unit_normal("once", (7,)).requires_grad_()
    gradients = []
    for make in (lambda x: with_gradient_once(loss, x), loss):
        Counted.passes = 0
        value = make(2 * weight)
        (first,) = torch.autograd.grad(value, weight, retain_graph=True)
        (second,) = torch.autograd.grad(value.square(), weight)
        gradients.append((value.detach(), first, second, Counted.passes))
    (*once, passes), (*plain, plain_passes) = gradients
    assert (passes, plain_passes) == (1, 2)
    for ours, expected in zip(once, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_the_graph_behind_the_loss_is_freed() -> None:
    x = torch.ones(3, requires_grad=True)
    value = with_gradient_once(lambda x: x.expand(9, 3).exp().exp().mean(), x)
    node = value.grad_fn
    assert node is not None
    assert [tensor.shape for tensor in node.saved_tensors] == [(3,)]
    [leaf] = [following for following, _ in node.next_functions if following]
    assert leaf.variable is x


@pytest.mark.parametrize("grad", [False, True])
def test_without_a_gradient_the_loss_is_just_computed(grad: bool) -> None:
    Counted.passes = 0
    x = torch.ones(3, requires_grad=grad)
    with torch.set_grad_enabled(not grad):
        value = with_gradient_once(loss, x)
    assert not value.requires_grad
    assert Counted.passes == 0
    assert torch.equal(value, loss(torch.ones(3)))
