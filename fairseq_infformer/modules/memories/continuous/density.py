"""The densities that a query can lay over the memory's interval [0, 1].

A density is a value, a NamedTuple of its parameters (mean and variance, one pair per head and query), that knows the
expectation of the basis under it and its cumulative distribution. ``DENSITIES`` names the classes; with
``@register_density("name")`` a new one is known to ``ContinuousAttention`` and to the command line.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fairseq_infformer.modules.registration import check_plugin
from fairseq_infformer.modules.settings import check_choice

from .basis import GaussianFunctions, gaussian_pdf
from .kernels import gaussian_read


class Density(Protocol):
    """What every density offers. Shapes: ``(...)`` is (B, H, T) in the model, anything elsewhere."""

    mean: Tensor  # (...) in [0, 1]
    variance: Tensor  # (...) positive, in units of the interval squared

    def expected(self, basis: GaussianFunctions) -> Tensor:
        """``E[ψ(t)]``, (..., N)."""

    def read(self, values: Tensor, basis: GaussianFunctions) -> Tensor:
        """``E[Σ_j ψ_j(t) V_j]``, (B, H, T, d), for values (B, H, N, d): the fast path of ``expected @ values``."""

    def cdf(self, t: Tensor) -> Tensor:
        """Mass left of each of the K points ``t`` (K,), as (..., K)."""


DENSITIES: dict[str, type[Density]] = {}


def register_density(name: str) -> Callable[[type], type]:
    """Class decorator: makes a NamedTuple, see ``Density``, known by ``name``.

    Its first fields are ``mean`` and ``variance``; any others, (B, H, T) each, are linear in the scores, as the mean is
    before its sigmoid.
    """

    def register(cls: type) -> type:
        if name in DENSITIES:
            raise ValueError(f"a density named {name!r} is registered already: {DENSITIES[name].__qualname__}")
        check_plugin(cls)
        DENSITIES[name] = cls
        return cls

    return register


def find_density(name: str) -> type[Density]:
    """The density class registered under ``name``; SettingError if there is none."""
    check_choice("density", name, sorted(DENSITIES))
    return DENSITIES[name]


def normal_cdf(z: Tensor) -> Tensor:
    """Φ(z), accurate in both tails."""
    return 0.5 * torch.erfc(-z / math.sqrt(2))


def normal_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """Φ(upper) − Φ(lower), accurate where both lie in one tail."""
    mirrored = lower > 0
    low, high = torch.where(mirrored, -upper, lower), torch.where(mirrored, -lower, upper)
    return normal_cdf(high) - normal_cdf(low)


def _standard_normal(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)


@register_density("gaussian")
class GaussianDensity(NamedTuple):
    """The paper's: a Gaussian over the whole real line. What lies outside [0, 1] reads nothing."""

    mean: Tensor
    variance: Tensor

    def expected(self, basis: GaussianFunctions) -> Tensor:
        return basis.expected(self.mean, self.variance)

    def read(self, values: Tensor, basis: GaussianFunctions) -> Tensor:
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
        return normal_mass(-self.mean / sigma, (1 - self.mean) / sigma)

    def expected(self, basis: GaussianFunctions) -> Tensor:
        # The product of the two Gaussians is N(mean; c, variance + s²) times a Gaussian in t, whose mass inside
        # [0, 1] is what the cut leaves of it.
        centers, scales = basis.grid_like(self.mean)
        mean, variance = self.mean.unsqueeze(-1), self.variance.unsqueeze(-1)
        total = variance + scales.square()
        product_mean = (mean * scales.square() + centers * variance) / total
        product_sigma = (variance * scales.square() / total).sqrt()
        inside = normal_mass(-product_mean / product_sigma, (1 - product_mean) / product_sigma)
        return gaussian_pdf(mean, centers, total) * inside / self._mass().unsqueeze(-1)

    def read(self, values: Tensor, basis: GaussianFunctions) -> Tensor:
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

    def expected(self, basis: GaussianFunctions) -> Tensor:
        return basis.expected(self.mean, self.variance) / self._mass().unsqueeze(-1)

    def read(self, values: Tensor, basis: GaussianFunctions) -> Tensor:
        return gaussian_read(self.mean, self.variance, values, basis) / self._mass().unsqueeze(-1)

    _mass = TruncatedGaussianDensity._mass
    cdf = TruncatedGaussianDensity.cdf


@register_density("sparsemax")
class SparsemaxDensity(NamedTuple):
    """A parabola cut off where it meets zero: ``p(t) = ¾ (1 − ((t − μ)/a)²)/a`` for ``|t − μ| ≤ a = √(5 variance)``.

    It is continuous sparsemax's (Martins et al. 2020, section 3), whose σ² is ⅔a³; its parameter here is its own
    variance, so that a width means the same under every density. What it weighs outside its support is exactly zero.
    """

    mean: Tensor
    variance: Tensor

    def expected(self, basis: GaussianFunctions) -> Tensor:
        centers, scales = basis.grid_like(self.mean)
        reach = (5 * self.variance).sqrt().unsqueeze(-1)
        z, ratio = (self.mean.unsqueeze(-1) - centers) / scales, reach / scales
        few = 0.02 if ratio.dtype == torch.float64 else 0.5
        # Two forms, see README.md. Each gets only values that it is for: otherwise the gradient of the one that is not
        # chosen would be 0 · inf.
        rho = ratio.clamp_min(few)
        lower, upper = z - rho, z + rho
        peaks = (rho + z) * _standard_normal(lower) + (rho - z) * _standard_normal(upper)
        wide = 0.75 / rho * ((1 - (z.square() + 1) / rho.square()) * normal_mass(lower, upper) + peaks / rho.square())
        rho, z = ratio.clamp_max(few), z.clamp(-50, 50)  # beyond, the normal density is 0
        square = z.square()
        narrow = 1 + rho.square() * (square - 1) / 10
        narrow = narrow + rho**4 * (square * (square - 6) + 3) / 280
        narrow = narrow + rho**6 * (square * (square * (square - 15) + 45) - 15) / 15120
        narrow = narrow * _standard_normal(z)
        return torch.where(ratio > few, wide, narrow) / scales

    def read(self, values: Tensor, basis: GaussianFunctions) -> Tensor:
        return self.expected(basis) @ values

    def cdf(self, t: Tensor) -> Tensor:
        z = (t - self.mean.unsqueeze(-1)) / (5 * self.variance).sqrt().unsqueeze(-1)
        z = z.clamp(-1, 1)
        return 0.5 + 0.25 * z * (3 - z.square())
