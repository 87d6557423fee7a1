"""The bits of a clip are those of a coder that a decoder can follow."""

import math
from collections import Counter

import pytest
import torch

from vidtok.evaluation.rate import code_digits, coded_bits, value_bytes
from vidtok.fsq import codes_to_indices

CHOICE = 2
"""Bits that say which code a channel takes."""


def followed(symbols: list[int], contexts: list[int], size: int) -> float:
    """Return the bits of an adaptive coder, symbol by symbol, from what came before only."""
    seen: Counter[tuple[int, int]] = Counter()
    total: Counter[int] = Counter()
    bits = 0.0
    for symbol, context in zip(symbols, contexts, strict=True):
        bits -= math.log2((seen[context, symbol] + 0.5) / (total[context] + size / 2))
        seen[context, symbol] += 1
        total[context] += 1
    return bits


def draw(*shape: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(seed))


def test_the_length_is_what_a_coder_spends_symbol_by_symbol() -> None:
    skewed = draw(6, 8, 8, size=8).clamp(max=2)
    one = followed(skewed.flatten().tolist(), [0] * skewed.numel(), 8)
    assert coded_bits(skewed[None], [8]) == math.ceil(one + CHOICE) < 3 * skewed.numel()

    still = draw(1, 8, 8, size=8).repeat(6, 1, 1)
    before = [8] * 64 + still[:-1].flatten().tolist()
    after = followed(still.flatten().tolist(), before, 8)
    assert coded_bits(still[None], [8]) == math.ceil(after + CHOICE) < 0.6 * 3 * still.numel()


def test_noise_costs_its_fixed_bits_and_the_choice() -> None:
    assert coded_bits(draw(2, 5, 16, 16, size=8), [8, 8]) == 2 * 5 * 16 * 16 * 3 + 2 * CHOICE


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2, 2), (3, 1, 1)])
def test_few_tokens_are_not_cheap(shape: tuple[int, int, int]) -> None:
    """An entropy that is estimated from one token is zero; its code is not."""
    tokens = math.prod(shape)
    bits = coded_bits(draw(1, *shape, size=5), [5])
    assert tokens < bits <= math.ceil(tokens * math.log2(5)) + CHOICE


def test_channels_of_other_sizes_add_up() -> None:
    five, seven = draw(1, 3, 4, 4, size=5), draw(1, 3, 4, 4, size=7, seed=1)
    both = coded_bits(torch.cat([five, seven]), [5, 7])
    assert both == pytest.approx(coded_bits(five, [5]) + coded_bits(seven, [7]), abs=1)
    with pytest.raises(ValueError, match="shorter"):
        coded_bits(torch.cat([five, seven]), [5])


def test_a_channel_with_one_level_costs_only_the_choice() -> None:
    assert coded_bits(torch.zeros(1, 3, 4, 4), [1]) == CHOICE


def test_a_codebook_without_channels_has_no_table_of_contexts() -> None:
    codes = draw(1, 2, 8, 8, size=1 << 18)
    assert coded_bits(codes, [1 << 18]) <= codes.numel() * 18 + CHOICE


def test_digits_are_the_channels_levels() -> None:
    digits = torch.stack([draw(3, 4, 4, size=level, seed=level) for level in (8, 5, 3)])
    width = torch.tensor([4, 2, 1]).view(3, 1, 1, 1)
    codes = ((digits - width) / width).movedim(0, -1)
    indices = codes_to_indices(codes, (8, 5, 3))
    assert code_digits(indices, (8, 5, 3)).equal(digits)


def test_a_latent_is_coded_as_it_is_stored() -> None:
    latent = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    low_and_high = value_bytes(latent)
    assert low_and_high.shape == (4, 3, 4, 4)
    back = low_and_high[0::2].short() | (low_and_high[1::2].short() << 8)
    assert back.view(torch.float16).equal(latent)
    assert coded_bits(low_and_high, [256] * 4) <= 16 * latent.numel() + 4 * CHOICE
