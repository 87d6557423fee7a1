"""A perceptual hash of a picture: alike for copies that differ in size, compression or brightness.

The hash of ImageHash's `phash` with its defaults, bit for bit.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 32
"""Side of the square to which a picture is scaled."""

_KEPT = 8
"""Number of lowest frequencies of each axis: 8 × 8 are the 64 bits."""


def phash(frame: NDArray[Any]) -> int:
    """Return the 64-bit DCT hash of a picture as a signed integer, as an int64 column holds it.

    The picture's luma is scaled to 32×32 (Lanczos). A bit is 1 where a coefficient of the 8×8
    lowest frequencies of its DCT-II is above their median. The first bit is the highest. The number
    of bits in which two hashes differ is a distance: copies of a picture differ in a few bits,
    other pictures in about 32.

    Args:
        frame: `[H, W, 3]` in [0, 255], uint8 or float32, which is rounded.
    """
    pixels = frame if frame.dtype == np.uint8 else np.rint(np.clip(frame, 0, 255)).astype(np.uint8)
    grey = Image.fromarray(np.ascontiguousarray(pixels)).convert("L")
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS), np.float64)
    low = np.round(_cosines() @ small @ _cosines().T, 6)  # what is 0 has no sign of rounding
    bits = np.packbits(low > np.median(low)).tobytes()
    return int.from_bytes(bits, "big", signed=True)


@cache
def _cosines() -> NDArray[np.float64]:
    """Return the 8 lowest rows of the DCT-II of 32 values, unscaled as in SciPy."""
    places = np.arange(_KEPT)[:, np.newaxis] * (2 * np.arange(_SIDE) + 1)
    return 2 * np.cos(np.pi * places / (2 * _SIDE))
