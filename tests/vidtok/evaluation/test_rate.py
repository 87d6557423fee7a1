import math

import pytest

from vidtok.evaluation.rate import bits_per_cell, bits_per_pixel, entropy_coded_bits_per_pixel
from vidtok.presets import named_config

FSQ = named_config("vidtok_fsq_causal_488_262144")
KL = named_config("vidtok_kl_causal_488_8chn")


def test_fsq_spends_the_bits_of_its_codebook() -> None:
    assert bits_per_cell(FSQ) == 18
    assert bits_per_pixel(FSQ, 17, 128, 128) == pytest.approx(18 * 5 * 16 * 16 / (17 * 128 * 128))
    assert bits_per_pixel(FSQ, 17, 128, 128, latent_bits=8) == bits_per_pixel(FSQ, 17, 128, 128)


def test_kl_spends_the_stored_bits_of_each_channel() -> None:
    assert bits_per_cell(KL) == 8 * 16
    expected = 8 * 32 * 5 * 16 * 16 / (17 * 128 * 128)
    assert bits_per_pixel(KL, 17, 128, 128, latent_bits=32) == pytest.approx(expected)


def test_long_clips_come_near_the_compression_factor() -> None:
    assert bits_per_pixel(FSQ, 4001, 256, 256) == pytest.approx(18 / (4 * 8 * 8), rel=1e-3)
    noncausal = named_config("vidtok_fsq_noncausal_41616_262144")
    assert bits_per_pixel(noncausal, 16, 256, 256) == pytest.approx(18 / (4 * 16 * 16))


def test_an_ideal_coder_spends_the_entropy() -> None:
    stored = bits_per_pixel(FSQ, 17, 128, 128)
    assert entropy_coded_bits_per_pixel(FSQ, 17, 128, 128, 9.0) == pytest.approx(stored / 2)
    full = math.log2(FSQ.codebook_size or 0)
    assert entropy_coded_bits_per_pixel(FSQ, 17, 128, 128, full) == pytest.approx(stored)


def test_what_has_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="no code indices"):
        entropy_coded_bits_per_pixel(KL, 17, 128, 128, 9.0)
    with pytest.raises(ValueError, match="use 13 or 17"):
        bits_per_pixel(FSQ, 16, 128, 128)
