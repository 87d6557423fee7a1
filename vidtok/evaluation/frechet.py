"""Gaussians fitted to features in a stream, and the Fréchet distance between two of them.

Source: Dowson and Landau, The Fréchet Distance between Multivariate Normal Distributions, 1982;
used on features since Heusel et al., arXiv 1706.08500. Means and scatters are merged by the formula
of Chan, Golub and LeVeque (1979). Unlike sums of squares, it loses no digits to a large mean.
"""

from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor


@dataclass(eq=False)
class Gaussian:
    """Mean and covariance of features, accumulated in float64 on the CPU.

    A new object is empty; the first update sets the number of dimensions D. Merging the Gaussians
    of all shares of a set gives that of the whole set.
    """

    count: int = 0
    """Number of samples."""
    mean: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    """Mean of the samples, `[D]`."""
    scatter: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))
    """Sum of the outer products of deviations from the mean, `[D, D]`."""

    @property
    def dimensions(self) -> int:
        """Number of dimensions D, 0 without samples."""
        return self.mean.numel()

    @property
    def covariance(self) -> Tensor:
        """Covariance `[D, D]`, the scatter divided by count - 1. Zeros for a single sample."""
        return self.scatter / max(self.count - 1, 1)

    def update(self, features_ND: Tensor) -> None:
        """Add N samples.

        Raises:
            ValueError: the shape is not `[N, D]`, D differs from earlier samples, or a value is not
                finite.
        """
        if features_ND.dim() != 2:
            raise ValueError(f"features of shape {list(features_ND.shape)}: [N, D] is needed")
        if len(features_ND) == 0:
            return
        x = features_ND.detach().to("cpu", torch.float64)
        if not x.isfinite().all():
            raise ValueError("features that are not finite: a Gaussian of them has no meaning")
        mean = x.mean(0)
        deviations = x - mean
        self.merge(Gaussian(len(x), mean, deviations.T @ deviations))

    def merge(self, other: "Gaussian") -> None:
        """Add the samples of another Gaussian.

        Raises:
            ValueError: the dimensions differ.
        """
        if other.count == 0:
            return
        if self.count == 0:
            self.count, self.mean, self.scatter = other.count, other.mean, other.scatter
            return
        if self.dimensions != other.dimensions:
            raise ValueError(
                f"features of {self.dimensions} and of {other.dimensions} dimensions "
                "cannot be merged"
            )
        count = self.count + other.count
        apart = other.mean - self.mean
        between = torch.outer(apart, apart) * (self.count * other.count / count)
        self.mean = self.mean + apart * (other.count / count)
        self.scatter = self.scatter + other.scatter + between
        self.count = count

    def principal_axes(self, number: int) -> Tensor:
        """Return the orthonormal axes `[D, number]` of largest variance, the largest first.

        Raises:
            ValueError: there are fewer dimensions than axes.
        """
        if number > self.dimensions:
            raise ValueError(f"{number} principal axes of {self.dimensions} dimensions")
        axes: Tensor = torch.linalg.eigh(self.covariance).eigenvectors
        return axes.flip(1)[:, :number]

    def project(self, axes_DK: Tensor) -> Self:
        """Return the Gaussian of the same samples, each multiplied by `axes_DK`."""
        return type(self)(self.count, self.mean @ axes_DK, axes_DK.T @ self.scatter @ axes_DK)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return |μ_a - μ_b|² + tr(Σ_a + Σ_b - 2 (Σ_a Σ_b)^½), 0 or more.

    The trace of the root is the sum of the singular values of Σ_a^½ Σ_b^½. This stays accurate for
    singular covariances, which fewer samples than dimensions give.

    Raises:
        ValueError: one of them is empty, or the dimensions differ.
    """
    if not a.count or not b.count:
        raise ValueError("a Fréchet distance needs at least one sample on each side")
    if a.dimensions != b.dimensions:
        raise ValueError(f"features of {a.dimensions} and of {b.dimensions} dimensions")
    roots = [_root(gaussian.covariance) for gaussian in (a, b)]
    overlap = torch.linalg.svdvals(roots[0] @ roots[1]).sum()
    traces = torch.trace(a.covariance) + torch.trace(b.covariance)
    distance = (a.mean - b.mean).square().sum() + traces - 2 * overlap
    return max(float(distance), 0.0)  # rounding leaves -1e-13 for equal ones


def sample_note(a: Gaussian, b: Gaussian, dimensions: int) -> str | None:
    """Return a warning to print with a distance of too few samples, or None.

    With no more samples than dimensions a covariance does not have full rank: even two halves of
    one set are then far apart.
    """
    fewest = min(a.count, b.count)
    if fewest > dimensions:
        return None
    return f"{fewest} samples in {dimensions} dimensions: compare only at equal numbers of samples"


def _root(covariance_DD: Tensor) -> Tensor:
    """Return the symmetric root of a covariance. Negative eigenvalues, from rounding, become 0."""
    values, vectors = torch.linalg.eigh(covariance_DD)
    root: Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root
