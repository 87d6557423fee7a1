import torch

from tests.vidtok.deterministic import unit_normal
from tests.vidtok.goldens import unit
from vidtok import Encoded
from vidtok.kl import posterior, sample

DRAWN = {"rtol": 1e-4, "atol": 1e-4}
"""Drawn values differ by rounding, depending on the processor; here they are scaled up."""


def recorded_moments() -> torch.Tensor:
    """Encoder output `[2, 3, 4, 5, 8]` whose log-variances pass both limits."""
    moments = unit_normal("kl.moments", (2, 8, 3, 4, 5)) * 3
    moments[0, 4:6] *= 20
    return moments.movedim(1, -1)


def test_mean_and_clamped_log_variance_equal_the_reference() -> None:
    mean, logvar = posterior(recorded_moments())
    torch.testing.assert_close(mean.movedim(-1, 1), unit("kl", "mode"), **DRAWN)
    torch.testing.assert_close(logvar.movedim(-1, 1), unit("kl", "logvar"), **DRAWN)


def test_a_sample_equals_the_reference_s_for_its_seed() -> None:
    mean, logvar = unit("kl", "mode"), unit("kl", "logvar")
    encoded = Encoded(mean, mean=mean, logvar=logvar)
    torch.testing.assert_close(encoded.sample(seed=0), unit("kl", "sample"), **DRAWN)
    torch.manual_seed(0)
    assert torch.equal(sample(mean, logvar), encoded.sample(seed=0))


def test_half_precision_is_computed_with_in_float32() -> None:
    mean, logvar = posterior(recorded_moments().bfloat16())
    assert mean.dtype == logvar.dtype == torch.float32
