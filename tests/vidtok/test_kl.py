import torch

from tests.vidtok.deterministic import unit_normal
from tests.vidtok.goldens import unit
from vidtok import Encoded
from vidtok.kl import posterior, sample


def recorded_moments() -> torch.Tensor:
    """Encoder output `[2, 3, 4, 5, 8]` whose log-variances pass both limits."""
    moments = unit_normal("kl.moments", (2, 8, 3, 4, 5)) * 3
    moments[0, 4:6] *= 20
    return moments.movedim(1, -1)


def test_mean_and_clamped_log_variance_equal_the_reference() -> None:
    mean, logvar = posterior(recorded_moments())
    assert torch.equal(mean.movedim(-1, 1), unit("kl", "mode"))
    assert torch.equal(logvar.movedim(-1, 1), unit("kl", "logvar"))


def test_a_sample_equals_the_reference_s_for_its_seed() -> None:
    mean, logvar = unit("kl", "mode"), unit("kl", "logvar")
    encoded = Encoded(mean, mean=mean, logvar=logvar)
    torch.testing.assert_close(encoded.sample(seed=0), unit("kl", "sample"))
    torch.manual_seed(0)
    assert torch.equal(sample(mean, logvar), encoded.sample(seed=0))


def test_half_precision_is_computed_with_in_float32() -> None:
    mean, logvar = posterior(recorded_moments().bfloat16())
    assert mean.dtype == logvar.dtype == torch.float32
