import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidtok.evaluation.codebook import CodebookUse, entropy_bits
from vidtok.fsq import indices_to_codes

levels_of_any_kind = st.lists(st.integers(2, 6), min_size=1, max_size=4).map(tuple)


def counted(levels: tuple[int, ...], *indices: torch.Tensor) -> CodebookUse:
    use = CodebookUse(levels)
    for some in indices:
        use.update(some)
    return use


def draw(levels: tuple[int, ...], tokens: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(math.prod(levels), (tokens,), generator=generator, dtype=torch.int32)


@given(levels_of_any_kind, st.integers(0, 200), st.integers(0, 2**31 - 1))
def test_level_counts_are_those_of_the_codes(
    levels: tuple[int, ...], tokens: int, seed: int
) -> None:
    indices = draw(levels, tokens, seed)
    codes = indices_to_codes(indices, levels)
    widths = torch.tensor([level // 2 for level in levels])
    digits = (codes * widths + widths).round().long()
    expected = [
        torch.bincount(digits[:, channel], minlength=level).tolist()
        for channel, level in enumerate(levels)
    ]
    assert counted(levels, indices).level_counts() == expected


@given(levels_of_any_kind, st.integers(1, 300), st.integers(0, 2**31 - 1))
def test_entropies_keep_their_order(levels: tuple[int, ...], tokens: int, seed: int) -> None:
    told = counted(levels, draw(levels, tokens, seed)).summary()
    slack = 1e-9
    assert told["entropy_bits"] <= told["entropy_ceiling_bits"] + slack
    assert told["entropy_ceiling_bits"] <= told["codebook_bits"] + slack
    assert told["entropy_bits"] <= told["channel_bound_bits"] + slack
    assert told["channel_bound_bits"] <= told["codebook_bits"] + slack
    assert told["codes_used"] <= min(tokens, told["codebook_size"])


def test_every_code_once_is_full_use() -> None:
    told = counted((8, 5, 3), torch.arange(120).view(2, 3, 4, 5)).summary()
    assert told["tokens"] == told["codebook_size"] == told["codes_used"] == 120
    assert told["share_used"] == 1
    assert told["entropy_bits"] == pytest.approx(math.log2(120))
    assert told["perplexity"] == pytest.approx(120)
    assert told["channel_bound_bits"] == pytest.approx(math.log2(120))
    assert told["channel_entropy_bits"] == pytest.approx([3, math.log2(5), math.log2(3)])
    assert told["note"] is None


def test_one_code_is_no_information() -> None:
    told = counted((8, 8), torch.full((1000,), 9)).summary()
    assert told["codes_used"] == 1
    assert told["entropy_bits"] == 0
    assert told["perplexity"] == 1
    assert told["channel_share_used"] == [1 / 8, 1 / 8]
    assert told["channel_level_counts"][0] == [0, 1000, 0, 0, 0, 0, 0, 0]


def test_dependent_channels_show_in_the_bound() -> None:
    told = counted((4, 4), torch.tensor([0, 5, 10, 15])).summary()  # both channels always equal
    assert told["entropy_bits"] == pytest.approx(2)
    assert told["channel_bound_bits"] == pytest.approx(4)


def test_few_tokens_are_noted() -> None:
    told = counted((8,) * 6, torch.arange(1024)).summary()
    assert told["entropy_bits"] == pytest.approx(10)
    assert told["note"] == "1024 tokens show at most 10.00 of 18.00 bits"


def test_shares_merge_to_the_whole_and_summaries_are_json() -> None:
    whole = draw((8, 8, 8), 500, 1)
    merged = counted((8, 8, 8), whole[:100])
    merged.merge(counted((8, 8, 8), whole[100:300], whole[300:]))
    assert merged.summary() == counted((8, 8, 8), whole).summary()
    assert json.loads(json.dumps(merged.summary())) == merged.summary()


def test_nothing_counted_is_no_error() -> None:
    told = CodebookUse((8, 8)).summary()
    assert told["tokens"] == told["codes_used"] == told["entropy_bits"] == 0
    assert told["channel_entropy_bits"] == [0, 0]


@pytest.mark.parametrize("index", [-1, 64])
def test_indices_outside_the_codebook_are_refused(index: int) -> None:
    with pytest.raises(ValueError, match=r"the codebook has 64 codes"):
        counted((8, 8), torch.tensor([0, index]))


def test_other_codebooks_do_not_merge() -> None:
    with pytest.raises(ValueError, match="cannot be merged"):
        CodebookUse((8, 8)).merge(CodebookUse((64,)))


def test_entropy_of_a_biased_coin() -> None:
    assert entropy_bits(torch.tensor([1, 3])) == pytest.approx(0.25 * 2 + 0.75 * math.log2(4 / 3))
