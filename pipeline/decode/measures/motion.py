"""Motion between frames: the mean displacement of blocks, by gradients from coarse to fine."""

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]

BLOCK = 8
"""Side of a block at the finest of the levels, in values of the plane."""

PAIRS = 4
"""Maximum number of pairs of consecutive frames, at even distances, that are compared."""

_LEVELS = 3
"""Number of sizes: the plane itself, a half and a quarter of it."""

_NOISE = 0.25
"""Square of a gradient (levels per value) that counts as noise: flat blocks have no motion."""

_STEP = 2.0
"""Maximum displacement that one level adds, in values of the level."""


def displacement(luma: Plane) -> float:
    """Return the mean displacement from frame to frame, in values of the plane.

    Each block's displacement is the least squares solution of the brightness constancy equations
    of its 3×3 neighbourhood (Lucas and Kanade), found on a quarter, a half and the whole of the
    plane, where the next frame is shifted by what the coarser level found. Blocks are weighted by
    texture: one without any has no displacement and no weight. Displacements above about six values
    are underestimated.

    Args:
        luma: `[T, h, w]`. Rows and columns beyond a multiple of `BLOCK` are left out. The result is
            0 for a single frame and for a plane without a block.
    """
    count, height, width = luma.shape
    rows, columns = height // BLOCK, width // BLOCK
    if count < 2 or not rows or not columns:
        return 0.0
    firsts = np.unique(np.linspace(0, count - 2, min(PAIRS, count - 1)).round().astype(int))
    pictures = luma[:, : rows * BLOCK, : columns * BLOCK]
    levels = [(pictures[firsts], pictures[firsts + 1])]
    for _ in range(_LEVELS - 1):
        one, two = levels[-1]
        levels.append((_halved(one), _halved(two)))
    flow = np.zeros((len(firsts), rows, columns, 2), np.float32)
    weights = np.ones(flow.shape[:-1], np.float32)
    for one, two in reversed(levels):
        whole = np.rint(2 * flow).astype(np.int32)
        found, weights = _solved(one, _shifted(two, whole), rows)
        flow = whole + found
    speed = np.hypot(flow[..., 0], flow[..., 1])
    total = float(weights.sum())
    return float((weights * speed).sum()) / total if total else 0.0


def _halved(plane: Plane) -> Plane:
    half = plane[:, ::2, ::2] + plane[:, 1::2, ::2]
    half += plane[:, ::2, 1::2]
    half += plane[:, 1::2, 1::2]
    half *= np.float32(0.25)
    return half


def _shifted(plane: Plane, whole: NDArray[np.int32]) -> Plane:
    """Return the plane, each block of it taken from where its displacement points."""
    if not whole.any():
        return plane
    count, height, width = plane.shape
    side = height // whole.shape[1]
    offsets = whole.repeat(side, 1).repeat(side, 2)
    rows = np.clip(offsets[..., 0] + np.arange(height)[:, np.newaxis], 0, height - 1)
    columns = np.clip(offsets[..., 1] + np.arange(width), 0, width - 1)
    moved: Plane = plane[np.arange(count)[:, np.newaxis, np.newaxis], rows, columns]
    return moved


def _solved(one: Plane, two: Plane, rows: int) -> tuple[Plane, Plane]:
    """Return the displacement [pairs, rows, columns, 2] of each block, and its weight in [0, 1)."""
    side = one.shape[1] // rows
    both, change = (one + two) * np.float32(0.25), one - two
    # Smoothed across each difference and as the difference smooths along it, so fine texture moves
    # as far as coarse texture: sin(w) / w of a central difference is about 2/3 + cos(w) / 3.
    level = _smoothed_down(both)
    across = level[:, :, 2:] - level[:, :, :-2]
    level = _smoothed_across(both)
    down = level[:, 2:] - level[:, :-2]
    change = _smoothed_across(_smoothed_down(change))
    products = np.zeros((5, *one.shape), np.float32)
    pairs = ((down, down), (down, across), (across, across), (down, change), (across, change))
    for product, (left, right) in zip(products, pairs, strict=True):
        np.multiply(left, right, out=product[:, 1:-1, 1:-1])
    yy, xy, xx, yt, xt = _around(_summed(products, side))
    noise = np.float32(_NOISE * 9 * side * side)
    yy += noise
    xx += noise
    area = xx * yy - xy * xy
    found = np.stack([xx * yt - xy * xt, yy * xt - xy * yt], -1) / area[..., np.newaxis]
    return np.clip(found, -_STEP, _STEP), 1 - 2 * noise / (xx + yy)


def _smoothed_down(values: Plane) -> Plane:
    """Return the mean [1/6, 2/3, 1/6] of each value and those above and below; none of edges."""
    smooth = values[:, :-2] + values[:, 2:]
    smooth *= np.float32(1 / 6)
    smooth += values[:, 1:-1] * np.float32(2 / 3)
    return smooth


def _smoothed_across(values: Plane) -> Plane:
    smooth = values[:, :, :-2] + values[:, :, 2:]
    smooth *= np.float32(1 / 6)
    smooth += values[:, :, 1:-1] * np.float32(2 / 3)
    return smooth


def _summed(values: Plane, side: int) -> Plane:
    """Return the sum of each block of the last two axes."""
    *count, height, width = values.shape
    strips = np.add.reduce(values.reshape(*count, height // side, side, width), axis=-2)
    blocks: Plane = np.add.reduce(strips.reshape(*strips.shape[:-1], width // side, side), axis=-1)
    return blocks


def _around(blocks: Plane) -> Plane:
    """Return the sum of each block and its neighbours."""
    padded = np.pad(blocks, [(0, 0)] * (blocks.ndim - 2) + [(1, 1)] * 2)
    strips = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    sums: Plane = strips[..., :-2] + strips[..., 1:-1] + strips[..., 2:]
    return sums
