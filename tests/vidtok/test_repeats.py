import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidtok.fsq import indices_to_codes
from vidtok.repeats import MAX_DISTANCE, hold_repeats, hold_within, repeat_share

LEVELS = (4, 3, 2)


@st.composite
def clips(draw: st.DrawFn) -> tuple[Tensor, tuple[int, ...]]:
    """Indices [B, t, h, w], in which neighbours in time are often near, and their levels."""
    levels = tuple(draw(st.lists(st.integers(2, 9), min_size=1, max_size=6)))
    shape = [draw(st.integers(1, most)) for most in (2, 5, 3, 3)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31 - 1)))
    total, place = torch.zeros(shape, dtype=torch.int32), 1
    for level in levels:
        steps = torch.randint(-1, 2, shape, generator=generator).cumsum(1)
        total += ((steps + level // 2).clamp(0, level - 1) * place).int()
        place *= level
    return total, levels


def distance(one: Tensor, other: Tensor, levels: tuple[int, ...]) -> Tensor:
    """The sum of differences in levels, from the codes."""
    widths = torch.tensor([level // 2 for level in levels])
    codes = indices_to_codes(one, levels) - indices_to_codes(other, levels)
    return (codes * widths).round().abs().sum(-1)


@settings(max_examples=40)
@given(clips(), st.integers(0, 8))
def test_a_token_becomes_the_one_before_in_the_result_if_it_is_near(
    made: tuple[Tensor, tuple[int, ...]], d: int
) -> None:
    indices, levels = made
    held = hold_repeats(indices, levels, d)
    assert held.dtype == indices.dtype
    assert torch.equal(held[:, 0], indices[:, 0])
    near = distance(indices[:, 1:], held[:, :-1], levels) <= d
    assert torch.equal(held[:, 1:], torch.where(near, held[:, :-1], indices[:, 1:]))
    assert (distance(indices, held, levels) <= d).all()
    assert torch.equal(hold_repeats(held, levels, d), held)
    assert torch.equal(hold_repeats(indices, levels, 0), indices)


def test_a_slow_drift_does_not_add_up() -> None:
    drift = torch.arange(8).view(1, 8, 1, 1)
    assert hold_repeats(drift, (8,), 2).flatten().tolist() == [0, 0, 0, 3, 3, 3, 6, 6]
    assert repeat_share(hold_repeats(drift, (8,), 2)).tolist() == [5 / 8]
    assert hold_repeats(drift, (8,), 7).flatten().tolist() == [0] * 8


def test_clips_do_not_touch_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(math.prod(LEVELS), (3, 4, 2, 2), generator=generator)
    alone = [hold_repeats(clip, LEVELS, 2) for clip in indices.split(1)]
    assert torch.equal(hold_repeats(indices, LEVELS, 2), torch.cat(alone))
    shares = torch.cat([repeat_share(clip) for clip in alone])
    assert torch.equal(repeat_share(torch.cat(alone)), shares)


@settings(max_examples=40)
@given(clips(), st.integers(0, 6))
def test_the_distance_is_the_last_before_the_loss_is_too_large(
    made: tuple[Tensor, tuple[int, ...]], allowed: int
) -> None:
    indices, levels = made[0][:1], made[1]
    calls = []

    def psnr_db(held: Tensor) -> float:
        calls.append(held)
        return 30 - float(distance(indices, held, levels).sum())

    held, d = hold_within(indices, levels, allowed, psnr_db)
    assert torch.equal(held, hold_repeats(indices, levels, d))
    assert distance(indices, held, levels).sum() <= allowed
    if not (held == held[:, :1]).all():
        further = hold_repeats(indices, levels, d + 1)
        assert distance(indices, further, levels).sum() > allowed
    assert all(not torch.equal(a, b) for a, b in pairwise(calls))


def test_the_distance_fits_one_byte() -> None:
    """Also of a channel with many levels, whose loss allows more."""
    indices = torch.tensor([0, 300, 250]).reshape(1, 3, 1, 1)
    held, d = hold_within(indices, (1024,), 10.0, lambda _: 30.0)
    assert d == MAX_DISTANCE == 255
    assert held.flatten().tolist() == [0, 300, 300]


def test_a_picture_and_a_still_clip_are_not_decoded() -> None:
    def psnr_db(held: Tensor) -> float:
        raise AssertionError("decoded")

    for shape in ((1, 1, 4, 4), (1, 5, 4, 4)):
        still = torch.randint(24, (1, 1, *shape[2:])).expand(shape)
        held, d = hold_within(still, LEVELS, 0.2, psnr_db)
        assert torch.equal(held, still)
        assert d == 0


@pytest.mark.parametrize(("shape", "d"), [((1, 2, 3, 4), -1), ((2, 3, 4), 1)])
def test_wrong_arguments_are_refused(shape: tuple[int, ...], d: int) -> None:
    with pytest.raises(ValueError, match=r"must be 0 or more, and \[B, t, h, w\]"):
        hold_repeats(torch.zeros(shape, dtype=torch.int64), LEVELS, d)
