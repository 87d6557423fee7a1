"""Near-repeats of FSQ tokens made exact, so that a still part of a scene repeats its tokens.

A token repeats if it equals the token at the same cell one latent frame before. Where nothing
moves, noise still moves a channel by a level here and there. Such a token becomes the one before.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Final

import torch
from torch import Tensor

MAX_DISTANCE: Final = 255
"""Largest distance of `hold_within`: one byte stores it."""


def hold_repeats(indices: Tensor, levels: Sequence[int], distance: int) -> Tensor:
    """Return indices in which tokens near the token of the latent frame before become that token.

    The frame before is that of the result. So a slow drift does not add up: each token of the
    result is within `distance` of the token that it replaces. The first latent frame stays as it
    is.

    Args:
        indices: FSQ code indices `[B, t, h, w]`, integers.
        levels: number of levels of each channel.
        distance: maximum sum over the channels of the difference in levels; 0 changes nothing.

    Returns:
        Indices of the same shape and type.

    Raises:
        ValueError: `distance` is negative, or the shape is wrong.
    """
    if distance < 0 or indices.dim() != 4:
        raise ValueError(
            f"distance = {distance}, indices of shape {tuple(indices.shape)}:"
            " must be 0 or more, and [B, t, h, w]"
        )
    if distance == 0:
        return indices.clone()
    held = list(indices.unbind(1))
    for n in range(1, len(held)):
        near = _distance(held[n], held[n - 1], levels) <= distance
        held[n] = torch.where(near, held[n - 1], held[n])
    return torch.stack(held, 1)


def hold_within(
    indices: Tensor, levels: Sequence[int], max_loss_db: float, psnr_db: Callable[[Tensor], float]
) -> tuple[Tensor, int]:
    """Return one clip's indices held at the largest distance whose loss is small enough.

    The distance grows by one from 0 as long as `psnr_db(indices) - psnr_db(held)` is at most
    `max_loss_db`, until all latent frames repeat the first, and up to `MAX_DISTANCE`.

    Args:
        indices: FSQ code indices `[1, t, h, w]`, integers.
        levels: number of levels of each channel.
        max_loss_db: maximum loss in dB, 0 or more.
        psnr_db: quality in dB of such indices, decoded. It is called with the indices as they are,
            and once for each distance that holds more tokens than the one before.

    Returns:
        The held indices, and the distance.
    """
    held, distance, exact_db = indices, 0, None
    while distance < MAX_DISTANCE and not bool((held == held[:, :1]).all()):
        tried = hold_repeats(indices, levels, distance + 1)
        if not torch.equal(tried, held):
            exact_db = psnr_db(indices) if exact_db is None else exact_db
            if exact_db - psnr_db(tried) > max_loss_db:
                break
        held, distance = tried, distance + 1
    return held, distance


def repeat_share(indices: Tensor) -> Tensor:
    """Return the share of tokens that repeat, `[B]`, of indices `[B, t, h, w]`.

    It is a share of all tokens. Those of the first latent frame never repeat, so it is at most
    1 - 1/t.
    """
    repeats = (indices[:, 1:] == indices[:, :-1]).flatten(1).sum(1)
    return repeats / prod(indices.shape[1:])


def _distance(one: Tensor, other: Tensor, levels: Sequence[int]) -> Tensor:
    """Return the sum over the channels of the difference in levels, of indices of one shape."""
    total = torch.zeros_like(one)
    for level in levels:
        total += (one % level - other % level).abs()
        one, other = one // level, other // level
    return total
