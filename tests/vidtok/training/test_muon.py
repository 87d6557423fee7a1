import torch
from torch import Tensor, nn

from vidtok import ops
from vidtok.training.muon import Muon


def kernel(*shape: int, seed: int = 0) -> nn.Parameter:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return nn.Parameter(ops.channels_last(values) if len(shape) in (3, 4, 5) else values)


def stepped(p: nn.Parameter, gradient: Tensor, lr: float = 0.1) -> Tensor:
    """Return how one step moves a weight."""
    others = kernel(4, 4, 1), kernel(4)
    before = p.detach().clone()
    for weight, along in [(p, gradient), *((other, other.detach()) for other in others)]:
        weight.grad = along
    Muon([p, *others], lr, (0.9, 0.99), fused=False).step()
    return p.detach() - before


def test_a_gradient_along_one_direction_does_not_hide_the_others() -> None:
    small = kernel(8, 4, 3, 3, seed=1).detach()
    common = torch.ones(4, 3, 3) / 6
    moved = stepped(kernel(8, 4, 3, 3), small + 100 * small.flatten(1).norm() * common)
    singular = torch.linalg.svdvals(moved.flatten(1))
    assert singular.max() < 2 * singular.min()
    cosine = torch.nn.functional.cosine_similarity(moved.flatten(), -small.flatten(), 0)
    assert cosine > 0.5


def test_kernels_of_all_dimensions_take_steps_of_one_length() -> None:
    for shape in [(8, 4, 3), (8, 4, 3, 3), (8, 4, 3, 3, 3), (4, 8, 1, 1, 1)]:
        moved = stepped(kernel(*shape), kernel(*shape, seed=1).detach())
        assert 0.01 < moved.square().mean().sqrt() < 0.03  # a fifth of the learning rate


def test_weights_that_are_no_kernels_are_left_to_adam() -> None:
    for shape in [(6,), (1,), (), (2, 3, 3, 3, 3, 3)]:
        gradient = kernel(*shape, seed=1).detach()
        moved = stepped(kernel(*shape), gradient)
        torch.testing.assert_close(moved, -0.1 * gradient.sign())
