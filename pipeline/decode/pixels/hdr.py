"""Conversion of high dynamic range to the standard range that tokenizers were trained on.

In: R'G'B' of a PQ (SMPTE ST 2084) or HLG (ARIB STD-B67) picture with BT.2020 primaries. Out: R'G'B'
of a standard-range BT.709 display. Unconverted, a PQ picture looks grey and flat to the tokenizer.
The steps are defined by the ITU, so the result is the same everywhere:

1. signal to light in cd/m²: ST 2084; for HLG the inverse OETF of BT.2100 and its OOTF for a display
   of 1000 cd/m² (gamma 1.2);
2. BT.2390 section 5.4.1 (EETF), on the largest of R, G and B so that hues stay: 1000 cd/m² become
   203, the level of diffuse white in BT.2408; levels below about 90 are unchanged;
3. BT.2020 to BT.709 primaries (BT.2087), clipped;
4. light to signal with gamma 2.4 (BT.1886), 203 cd/m² being white.

It runs after the resize, which then resizes the signal as for every other video. On the small
pictures it costs a hundredth.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

PEAK = 1000.0


WHITE = 203.0


class Transfer(IntEnum):
    """Code points of ITU-T H.273 for high dynamic range."""

    PQ = 16
    HLG = 18


M1, M2 = 2610 / 16384, 2523 / 4096 * 128


C1, C2, C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


BT2020_LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)


BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)


def to_standard_range(signal: NDArray[np.floating], transfer: Transfer) -> NDArray[np.float32]:
    """Return the picture in standard range.

    Args:
        signal: `[..., 3]`, R'G'B' in [0, 1].
        transfer: transfer function of the signal.

    Returns:
        `[..., 3]` float32 R'G'B' in [0, 1].
    """
    signal = np.clip(signal, 0.0, 1.0).astype(np.float32)
    light = pq_to_light(signal) if transfer is Transfer.PQ else hlg_to_light(signal)
    strongest = light.max(axis=-1, keepdims=True)
    light = light * (_compress(strongest) / np.maximum(strongest, 1e-6))
    display = np.clip(light @ BT2020_TO_BT709.T / WHITE, 0.0, 1.0)
    return np.asarray(display ** (1 / 2.4), dtype=np.float32)


def pq_to_light(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """ST 2084 EOTF: signal in [0, 1] to cd/m² in [0, 10000]."""
    power = signal ** np.float32(1 / M2)
    return np.asarray(
        10000 * (np.maximum(power - C1, 0) / (C2 - C3 * power)) ** (1 / M1), dtype=np.float32
    )


def light_to_pq(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of `pq_to_light`."""
    power = (light / 10000) ** np.float32(M1)
    return np.asarray(((C1 + C2 * power) / (1 + C3 * power)) ** M2, dtype=np.float32)


def hlg_to_light(signal: NDArray[np.float32]) -> NDArray[np.float32]:
    """BT.2100 HLG: signal in [0, 1] to cd/m² on a display of 1000 cd/m²."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    luma = (scene @ BT2020_LUMA)[..., None]
    return np.asarray(PEAK * np.maximum(luma, 1e-6) ** 0.2 * scene, dtype=np.float32)


def _compress(light: NDArray[np.float32]) -> NDArray[np.float32]:
    """BT.2390 EETF from [0, PEAK] to [0, WHITE]: straight up to the knee, then a Hermite curve."""
    peak, white = light_to_pq(np.array([PEAK, WHITE], np.float32))
    level = np.minimum(light_to_pq(light) / peak, 1.0)
    top = white / peak
    knee = 1.5 * top - 0.5
    t = np.maximum(level - knee, 0) / (1 - knee)
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (-2 * t**3 + 3 * t**2) * top
    )
    return pq_to_light(np.where(level < knee, level, curve) * peak)
