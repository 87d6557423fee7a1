import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.vidtok.deterministic import unit_normal
from vidtok.fsq import indices_to_codes
from vidtok.training.entropy import fsq_entropy


def plain_entropies(z: Tensor, levels: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The definition, in float64, with all of tokens × codes in memory."""
    codes = indices_to_codes(torch.arange(math.prod(levels)), levels).double()
    p = torch.softmax(200 * z.reshape(-1, len(levels)).double() @ codes.T, -1)

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp(min=1e-5).log()).sum(-1)

    return entropy(p).mean(), entropy(p.mean(0))


def with_gradient(entropies, z: Tensor, levels: tuple[int, ...], which: int):
    z = z.clone().requires_grad_()
    value = entropies(z, levels)[which]
    value.backward()
    return value.detach().double(), z.grad.double()


# At 0.05 nearly every token straddles several codes; at 0.003 all codes are nearly equally likely,
# and from 1e5 codes on every single one is below the floor; at 1.7 nearly every token has one code.
@pytest.mark.parametrize("scale", [1.7, 0.05, 0.01, 0.003])
@pytest.mark.parametrize("levels", [(8,) * 6, (8,) * 4, (7, 5, 5, 5, 5), (4, 3, 2), (5,)], ids=str)
@pytest.mark.parametrize("which", [0, 1], ids=["tokens", "codebook"])
def test_equals_the_plain_form_and_its_gradient(
    levels: tuple[int, ...], scale: float, which: int
) -> None:
    z = unit_normal(f"entropy.{levels}", (8, len(levels))) * scale
    value, gradient = with_gradient(fsq_entropy, z, levels, which)
    expected, expected_gradient = with_gradient(plain_entropies, z, levels, which)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    # Gradients are of the order of 1. The plain form in float32 is off by up to 1.6e-4.
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=5e-5)


@given(
    st.lists(st.integers(2, 9), min_size=1, max_size=4).map(tuple),
    st.floats(1e-4, 3),
    st.integers(0, 2**31 - 1),
)
@settings(max_examples=50)
def test_equals_the_plain_form_for_any_levels(
    levels: tuple[int, ...], scale: float, seed: int
) -> None:
    z = torch.randn(5, len(levels), generator=torch.Generator().manual_seed(seed)) * scale
    for value, expected in zip(fsq_entropy(z, levels), plain_entropies(z, levels), strict=True):
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-5)


def test_outputs_of_any_size_have_finite_gradients() -> None:
    z = torch.tensor([[0.0, -0.0, 0.0], [1e4, -1e4, 1e-4]], requires_grad=True)
    token, codebook = fsq_entropy(z, (8, 8, 8))
    (token - codebook).backward()
    assert z.grad.isfinite().all()


def test_codes_below_the_floor_count_as_much_as_the_floor() -> None:
    token, codebook = fsq_entropy(torch.zeros(3, 6), (8,) * 6)
    assert token.item() == pytest.approx(-math.log(1e-5), rel=1e-5)
    assert codebook.item() == pytest.approx(-math.log(1e-5), rel=1e-5)


def test_half_precision_is_computed_with_in_float32_under_autocast_too() -> None:
    z = (unit_normal("entropy.half", (16, 5)) * 0.05).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = fsq_entropy(z, (8,) * 5)
    assert under_autocast[0].dtype == torch.float32
    assert all(map(torch.equal, under_autocast, fsq_entropy(z.float(), (8,) * 5)))
