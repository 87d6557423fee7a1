import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.vidtok.deterministic import unit_normal
from tests.vidtok.goldens import unit
from vidtok.fsq import codes_to_indices, indices_to_codes, quantize

LEVELS = [(8,) * 4, (8,) * 5, (8,) * 6, (8, 5, 5, 5), (7, 5, 5, 5, 5), (4, 3, 2)]
levels_of_any_kind = st.lists(st.integers(2, 16), min_size=1, max_size=7).map(tuple)


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_equals_the_reference(levels: tuple[int, ...]) -> None:
    name = "x".join(map(str, levels))
    z = unit_normal(f"fsq.{name}", (2, len(levels), 3, 4, 5)) * 1.7
    z.view(-1)[:8] = torch.tensor([0, -0.0, 50, -50, 1e-6, -1e-6, 3, -3])
    codes = quantize(z.movedim(1, -1), levels)
    assert torch.equal(codes.movedim(-1, 1), unit("fsq", f"{name}.code"))
    assert torch.equal(codes_to_indices(codes, levels), unit("fsq", f"{name}.indices"))


@given(levels_of_any_kind, st.integers(0, 2**31 - 1))
def test_indices_and_codes_are_inverse(levels: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(math.prod(levels), (64,), generator=generator, dtype=torch.int32)
    codes = indices_to_codes(indices, levels)
    assert torch.equal(codes_to_indices(codes, levels), indices)
    assert codes.abs().max() <= 1


@given(levels_of_any_kind, st.integers(0, 2**31 - 1))
def test_whatever_is_quantized_is_in_the_codebook(levels: tuple[int, ...], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = quantize(torch.randn(64, len(levels), generator=generator) * 100, levels)
    indices = codes_to_indices(codes, levels)
    assert indices.min() >= 0
    assert indices.max() < math.prod(levels)
    assert torch.equal(indices_to_codes(indices, levels), codes)


def test_channel_0_is_the_least_significant_digit() -> None:
    lowest = torch.tensor([-1.0, -1.0, -1.0])
    assert codes_to_indices(lowest, (8, 8, 8)).item() == 0
    assert codes_to_indices(torch.tensor([-0.75, -1.0, -1.0]), (8, 8, 8)).item() == 1
    assert codes_to_indices(torch.tensor([-1.0, -1.0, -0.75]), (8, 8, 8)).item() == 64


def test_gradient_passes_straight_through_the_rounding() -> None:
    z = torch.tensor([[0.3, -0.2]], requires_grad=True)
    quantize(z, (8, 5)).sum().backward()
    shift = torch.tensor([math.atanh(0.5 / 3.5035), 0.0])
    slope = 1 - torch.tanh(z.detach() + shift) ** 2
    expected = slope * torch.tensor([3.5035 / 4, 2.002 / 2])
    torch.testing.assert_close(z.grad, expected, rtol=1e-5, atol=0)


def test_half_precision_input_is_quantized_in_float32() -> None:
    z = torch.randn(64, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(quantize(z, (8,) * 5), quantize(z.float(), (8,) * 5))


def test_a_codebook_that_does_not_fit_int32_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit int32"):
        codes_to_indices(torch.zeros(1, 12), (8,) * 12)
