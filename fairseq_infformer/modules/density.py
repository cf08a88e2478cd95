"""The densities that a query can lay over the memory's interval [0, 1].

A density is a value: its parameters (mean and variance, one pair a head and query), the expectation of the basis
under it, its cumulative distribution and the regulariser of its width. ``DENSITIES`` names the classes; a new one
joins by ``@register_density("name")`` and is then found by ``ContinuousAttention`` and by the command line.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .basis import GaussianBasis, gaussian_pdf
from .gaussian_read import gaussian_read


class Density(Protocol):
    """What every density offers. Shapes: ``(...)`` is (B, H, T) in the model, anything elsewhere."""

    mean: Tensor  # (...) in [0, 1]
    variance: Tensor  # (...) positive, in units of the interval squared

    def expected(self, basis: GaussianBasis) -> Tensor:
        """``E[ψ(t)]``, (..., N)."""

    def read(self, values: Tensor, basis: GaussianBasis) -> Tensor:
        """``E[Σ_j ψ_j(t) V_j]``, (B, H, T, d), for values (B, H, N, d): the fast path of ``expected @ values``."""

    def cdf(self, t: Tensor) -> Tensor:
        """Mass left of each of the K points ``t`` (K,), as (..., K)."""


DENSITIES: dict[str, type[Density]] = {}


def register_density(name: str) -> Callable[[type], type]:
    """Class decorator: makes a density known by ``name``. The class is built as ``cls(mean, variance)``."""

    def register(cls: type) -> type:
        if name in DENSITIES:
            raise ValueError(f"a density named {name!r} is registered already: {DENSITIES[name].__qualname__}")
        DENSITIES[name] = cls
        return cls

    return register


def find_density(name: str) -> type[Density]:
    """The density class registered under ``name``; ValueError names the choices if there is none."""
    if name not in DENSITIES:
        raise ValueError(f"unknown density {name!r}; choose one of {', '.join(sorted(DENSITIES))}")
    return DENSITIES[name]


def normal_cdf(z: Tensor) -> Tensor:
    """Φ(z), accurate in both tails."""
    return 0.5 * torch.erfc(-z / math.sqrt(2))


@register_density("gaussian")
class GaussianDensity(NamedTuple):
    """The paper's: a Gaussian over the whole real line. What lies outside [0, 1] reads nothing."""

    mean: Tensor
    variance: Tensor

    def expected(self, basis: GaussianBasis) -> Tensor:
        return basis.expected(self.mean, self.variance)

    def read(self, values: Tensor, basis: GaussianBasis) -> Tensor:
        return gaussian_read(self.mean, self.variance, values, basis)

    def cdf(self, t: Tensor) -> Tensor:
        return normal_cdf((t - self.mean.unsqueeze(-1)) / self.variance.sqrt().unsqueeze(-1))


@register_density("truncated-gaussian")
class TruncatedGaussianDensity(NamedTuple):
    """A Gaussian cut off outside [0, 1] and renormalised, so that no mass is lost at the ends.

    ``mean`` and ``variance`` are those of the Gaussian before it is cut.
    """

    mean: Tensor
    variance: Tensor

    def _mass(self) -> Tensor:
        sigma = self.variance.sqrt()
        return normal_cdf((1 - self.mean) / sigma) - normal_cdf(-self.mean / sigma)

    def expected(self, basis: GaussianBasis) -> Tensor:
        # The product of the two Gaussians is N(mean; c, variance + s²) times a Gaussian in t, whose mass inside
        # [0, 1] is what the cut leaves of it.
        centers, scales = basis.grid_like(self.mean)
        mean, variance = self.mean.unsqueeze(-1), self.variance.unsqueeze(-1)
        total = variance + scales.square()
        product_mean = (mean * scales.square() + centers * variance) / total
        product_sigma = (variance * scales.square() / total).sqrt()
        inside = normal_cdf((1 - product_mean) / product_sigma) - normal_cdf(-product_mean / product_sigma)
        return gaussian_pdf(mean, centers, total) * inside / self._mass().unsqueeze(-1)

    def read(self, values: Tensor, basis: GaussianBasis) -> Tensor:
        return self.expected(basis) @ values

    def cdf(self, t: Tensor) -> Tensor:
        sigma = self.variance.sqrt().unsqueeze(-1)
        left = normal_cdf(-self.mean / self.variance.sqrt()).unsqueeze(-1)
        mass = normal_cdf((t.clamp(0, 1) - self.mean.unsqueeze(-1)) / sigma) - left
        return mass / self._mass().unsqueeze(-1)


@register_density("renormalized-gaussian")
class RenormalizedGaussianDensity(NamedTuple):
    """A Gaussian over the real line, divided by its mass inside [0, 1].

    Since the memory's signal fades outside [0, 1] within the width of one basis function, this is the truncated
    Gaussian but for a seam of that width at the ends, at the cost of the plain one.
    """

    mean: Tensor
    variance: Tensor

    def expected(self, basis: GaussianBasis) -> Tensor:
        return basis.expected(self.mean, self.variance) / self._mass().unsqueeze(-1)

    def read(self, values: Tensor, basis: GaussianBasis) -> Tensor:
        return gaussian_read(self.mean, self.variance, values, basis) / self._mass().unsqueeze(-1)

    _mass = TruncatedGaussianDensity._mass
    cdf = TruncatedGaussianDensity.cdf
