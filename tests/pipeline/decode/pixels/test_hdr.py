import numpy as np
import pytest

from pipeline.decode.pixels.hdr import (
    WHITE,
    Transfer,
    hlg_to_light,
    light_to_pq,
    pq_to_light,
    to_standard_range,
)
from tests.pipeline.decode.pixels.test_frame_converter import BT2020, HLG, LIMITED, PQ, first
from tests.pipeline.decode.synthetic import encode


def test_pq_is_that_of_st_2084():
    """Levels from BT.2408, table 1, and the ends of the scale."""
    signal = np.array([0.0, 0.58, 0.75, 1.0], np.float32)
    assert pq_to_light(signal) == pytest.approx([0, 203, 983, 10_000], rel=0.01, abs=1e-3)


def test_pq_comes_back():
    light = np.geomspace(0.01, 10_000, 50, dtype=np.float32)
    assert pq_to_light(light_to_pq(light)) == pytest.approx(light, rel=2e-3)


def test_hlg_reference_white_is_203():
    white = np.full((1, 3), 0.75, np.float32)
    assert hlg_to_light(white) == pytest.approx(203, rel=0.01)
    assert hlg_to_light(np.ones((1, 3), np.float32)) == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize("transfer", list(Transfer))
def test_brighter_stays_brighter_and_grey_stays_grey(transfer: Transfer):
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[:, None].repeat(3, axis=1)
    shown = to_standard_range(ramp, transfer)
    assert shown.dtype == np.float32
    assert (shown.min(), shown.max()) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=5e-3))
    assert (np.diff(shown[:, 0]) >= -1e-6).all()
    assert np.ptp(shown, axis=1).max() < 0.01


def test_what_is_dark_enough_is_left_alone():
    """50 cd/m² of 203 are 50/203 of white on the standard display."""
    shown = to_standard_range(light_to_pq(np.full((1, 3), 50, np.float32)), Transfer.PQ)
    assert shown**2.4 * WHITE == pytest.approx(50, rel=0.02)


@pytest.mark.parametrize(("transfer", "signal"), [(PQ, 0.58), (HLG, 0.75)])
def test_white_paper_in_a_ten_bit_hdr_video_is_bright(transfer: int, signal: float):
    """BT.2408 puts paper at this signal; taken for standard range it would be a mid grey."""
    luma = np.full((32, 32), round(64 + 876 * signal), np.uint16)
    chroma = np.full((16, 16), 512, np.uint16)
    video = encode(
        [[luma, chroma, chroma]],
        pix_fmt="yuv420p10le",
        colorspace=BT2020[0],
        color_range=LIMITED,
        color_trc=transfer,
    )
    expected = to_standard_range(np.full((1, 3), signal, np.float32), Transfer(transfer)) * 255
    assert np.abs(first(video, resize="float32") - expected).max() < 1.5
    assert first(video).dtype == np.uint8
    assert 215 < first(video).mean() < 245
