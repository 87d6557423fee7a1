import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vidtok.evaluation.frechet import Gaussian, frechet_distance, sample_note


def draw(samples: int, dimensions: int, seed: int, mean: float = 0.0) -> Tensor:
    """Return correlated samples: of unequal variances, and all axes mixed."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    x = torch.randn(samples, dimensions, generator=generator, dtype=torch.float64)
    return x * torch.linspace(0.1, 2, dimensions) @ mixing + mean


def fitted(*shares: Tensor) -> Gaussian:
    gaussian = Gaussian()
    for share in shares:
        gaussian.update(share)
    return gaussian


def diagonal(mean: list[float], variances: list[float]) -> Gaussian:
    """Return a Gaussian of exactly these moments."""
    count = 101
    scatter = torch.diag(torch.tensor(variances, dtype=torch.float64)) * (count - 1)
    return Gaussian(count, torch.tensor(mean, dtype=torch.float64), scatter)


seeds = st.integers(0, 2**31 - 1)


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.sampled_from([0.0, 1e4]), seeds)
def test_shares_merge_to_the_moments_of_the_whole(sizes: list[int], mean: float, seed: int) -> None:
    x = torch.cat([draw(sum(sizes), 5, seed, mean), draw(2, 5, seed + 1, mean)])
    *shares, last = x.split([*sizes, 2])
    whole = fitted(last)
    for share in shares:
        whole.merge(fitted(share))
    assert whole.count == len(x)
    torch.testing.assert_close(whole.mean, x.mean(0))
    torch.testing.assert_close(whole.covariance, torch.cov(x.T), rtol=1e-6, atol=1e-8)


@given(st.tuples(*[st.integers(1, 6)] * 3), seeds)
def test_merging_is_associative_and_leaves_the_other_alone(
    sizes: tuple[int, int, int], seed: int
) -> None:
    a, b, c = draw(sum(sizes), 4, seed).split(list(sizes))
    left, right, tail = fitted(a), fitted(a), fitted(b)
    left.merge(fitted(b))
    left.merge(fitted(c))
    tail.merge(fitted(c))
    before = tail.scatter.clone()
    right.merge(tail)
    torch.testing.assert_close(left.mean, right.mean)
    torch.testing.assert_close(left.scatter, right.scatter)
    assert torch.equal(tail.scatter, before)


def test_two_diagonal_gaussians_are_as_far_apart_as_the_formula_says() -> None:
    a = diagonal([0, 1, -2], [1, 4, 0])
    b = diagonal([3, 1, 2], [9, 1, 0.25])
    means, roots = 9 + 0 + 16, (1 - 3) ** 2 + (2 - 1) ** 2 + 0.5**2
    assert frechet_distance(a, b) == pytest.approx(means + roots)


def test_correlated_gaussians_agree_with_the_root_of_the_product() -> None:
    a, b = fitted(draw(50, 6, 1)), fitted(draw(50, 6, 2, mean=0.3))
    # The product of two covariances is similar to a positive matrix: its eigenvalues are real.
    values = torch.linalg.eigvals(a.covariance @ b.covariance).real.clamp(min=0)
    traces = torch.trace(a.covariance) + torch.trace(b.covariance)
    expected = (a.mean - b.mean).square().sum() + traces - 2 * values.sqrt().sum()
    assert frechet_distance(a, b) == pytest.approx(float(expected))


@given(st.integers(1, 40), st.integers(1, 24), seeds)
def test_a_distance_is_symmetric_and_zero_to_itself(
    samples: int, dimensions: int, seed: int
) -> None:
    a, b = fitted(draw(samples, dimensions, seed)), fitted(draw(samples, dimensions, seed + 1))
    scale = float(torch.trace(a.covariance) + torch.trace(b.covariance)) + 1
    assert frechet_distance(a, a) <= 1e-9 * scale
    assert frechet_distance(a, b) >= 0
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-9 * scale)


def test_singular_covariances_lose_no_digits() -> None:
    x = draw(10, 64, 3)  # rank 9 of 64
    moved = frechet_distance(fitted(x), fitted(x + 0.5))
    assert moved == pytest.approx(64 * 0.25, rel=1e-9)


def test_rotating_both_changes_nothing() -> None:
    x, y = draw(30, 8, 4), draw(30, 8, 5)
    rotation = torch.linalg.qr(draw(8, 8, 6)).Q
    turned = frechet_distance(fitted(x @ rotation), fitted(y @ rotation))
    assert turned == pytest.approx(frechet_distance(fitted(x), fitted(y)))


def test_projecting_moments_is_projecting_samples() -> None:
    x = draw(40, 8, 7, mean=2)
    axes = fitted(x).principal_axes(3)
    projected, direct = fitted(x).project(axes), fitted(x @ axes)
    torch.testing.assert_close(projected.mean, direct.mean)
    torch.testing.assert_close(projected.covariance, direct.covariance)
    off_diagonal = direct.covariance - torch.diag(direct.covariance.diagonal())
    assert off_diagonal.abs().max() < 1e-9
    assert direct.covariance.diagonal().tolist() == sorted(
        direct.covariance.diagonal().tolist(), reverse=True
    )


def test_what_has_no_distance_is_refused() -> None:
    a = fitted(draw(5, 3, 0))
    with pytest.raises(ValueError, match="at least one sample on each side"):
        frechet_distance(a, Gaussian())
    with pytest.raises(ValueError, match="of 3 and of 4 dimensions"):
        frechet_distance(a, fitted(draw(5, 4, 0)))
    with pytest.raises(ValueError, match="of 3 and of 4 dimensions do not merge"):
        a.merge(fitted(draw(5, 4, 0)))
    with pytest.raises(ValueError, match="4 principal axes of 3 dimensions"):
        a.principal_axes(4)
    with pytest.raises(ValueError, match="not finite"):
        a.update(torch.tensor([[1.0, float("nan"), 0.0]]))
    with pytest.raises(ValueError, match=r"\[3\]: \[N, D\] is needed"):
        a.update(torch.zeros(3))


def test_too_few_samples_are_noted() -> None:
    few, many = fitted(draw(3, 3, 0)), fitted(draw(4, 3, 0))
    assert sample_note(many, many, dimensions=3) is None
    assert "3 samples in 3 dimensions" in str(sample_note(many, few, dimensions=3))
