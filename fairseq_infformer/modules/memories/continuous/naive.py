"""The paper's section 3 in its own order, slow and plain, in float64 on the CPU: what tests compare the fast code with.

Expectations are numerical integrals, and regressions are least squares on the whole design matrix. Nothing is shared
with the fast code but parameters and settings, the λ of each update among them. Autograd differentiates all of it.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from .basis import GaussianBasis
from .gibbs import GibbsAttention, GibbsDensity
from .memory import ContinuousMemory
from .operators import Regression, Step, ridge_used
from .read import ContinuousAttention

# Standard deviations: a normal density is below 1e-31 of its peak beyond.
REACH = 12.0


# ---- Numerical integrals


@lru_cache
def gauss_legendre(count: int = 20) -> tuple[Tensor, Tensor]:
    """Nodes and weights (count,) of the Gauss-Legendre rule on [0, 1] (Golub & Welsch 1969)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off_diagonal = k / (4 * k**2 - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off_diagonal, 1) + torch.diag(off_diagonal, -1))
    return (nodes + 1) / 2, vectors[0] ** 2


def integrate(f: Callable[[Tensor], Tensor], lower: Tensor, upper: Tensor, scale: float) -> Tensor:
    """``∫ f(t) dt`` from ``lower`` to ``upper`` by Gauss-Legendre on panels of at most ``4 · scale``.

    Args:
        f: takes points (K,) to values (K, ...); smooth between the limits, on the length ``scale``.
        lower, upper: (); the nodes lie between them, so that gradients reach them too.
    """
    nodes, weights = gauss_legendre()
    panels = max(1, math.ceil(float(upper - lower) / (4 * scale)))
    length = (upper - lower) / panels
    t = lower + length * (torch.arange(panels)[:, None] + nodes).flatten()
    return length * torch.tensordot(weights.repeat(panels), f(t), dims=1)


# ---- Section 3.1: the signal is a sum of basis functions, fitted by ridge regression


def normal_pdf(t: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normal density N(t; mean, variance)."""
    return torch.exp(-((t - mean) ** 2) / (2 * variance)) / torch.sqrt(2 * math.pi * variance)


def basis_values(basis: GaussianBasis, t: Tensor) -> Tensor:
    """ψ(t) at the points ``t`` (K,), as (K, N) (paper, section 3.1); the first width's centres come first."""
    centers = torch.linspace(0, 1, basis.num_centers, dtype=torch.float64)
    columns = []
    for width in basis.widths:
        for center in centers:
            columns.append(normal_pdf(t, center, torch.tensor(width, dtype=torch.float64) ** 2))
    return torch.stack(columns, dim=1)


def ridge_regression(design: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """The Θ (N, C) that minimises ``‖design·Θ − targets‖² + ridge·‖Θ‖²`` (paper, section 3.1).

    By least squares with √ridge·I below the design matrix: the normal equations are never formed.
    """
    penalty = math.sqrt(ridge) * torch.eye(design.shape[1], dtype=torch.float64)
    zeros = torch.zeros(design.shape[1], targets.shape[1], dtype=torch.float64)
    return torch.linalg.lstsq(torch.cat([design, penalty]), torch.cat([targets, zeros])).solution


# ---- Section 3.1: densities


class ReferenceDensity(NamedTuple):
    """The density of one query."""

    pdf: Callable[[Tensor], Tensor]  # at points (K,)
    lower: Tensor  # (), with upper: what lies outside weighs nothing
    upper: Tensor
    scale: float  # the length on which the density is smooth


def gaussian(mean: Tensor, variance: Tensor) -> ReferenceDensity:
    """N(mean, variance) over the whole line."""
    sigma = variance.sqrt()
    return ReferenceDensity(
        lambda t: normal_pdf(t, mean, variance), mean - REACH * sigma, mean + REACH * sigma, float(sigma)
    )


def renormalized_gaussian(mean: Tensor, variance: Tensor) -> ReferenceDensity:
    """N(mean, variance) over the whole line, divided by its mass in [0, 1]."""
    whole = gaussian(mean, variance)
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    inside = integrate(whole.pdf, zero, one, whole.scale)
    return whole._replace(pdf=lambda t: whole.pdf(t) / inside)


def truncated_gaussian(mean: Tensor, variance: Tensor) -> ReferenceDensity:
    """N(mean, variance) cut off outside [0, 1], divided by what is left of it."""
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    return renormalized_gaussian(mean, variance)._replace(lower=zero, upper=one)


def sparsemax(mean: Tensor, variance: Tensor) -> ReferenceDensity:
    """The parabola ``[λ − (t − mean)²]₊`` of mass 1, up to its scale, with the given variance (Martins et al. 2020)."""
    reach = (5 * variance).sqrt()
    height = 3 / (4 * reach**3)
    return ReferenceDensity(
        lambda t: (height * (reach**2 - (t - mean) ** 2)).clamp_min(0), mean - reach, mean + reach, float(reach)
    )


DENSITIES: dict[str, Callable[[Tensor, Tensor], ReferenceDensity]] = {
    "gaussian": gaussian,
    "renormalized-gaussian": renormalized_gaussian,
    "sparsemax": sparsemax,
    "truncated-gaussian": truncated_gaussian,
}


def expected_basis(density: ReferenceDensity, basis: GaussianBasis) -> Tensor:
    """``r = E[ψ(t)]``, (N,) (paper, equation 11)."""
    return integrate(
        lambda t: density.pdf(t)[:, None] * basis_values(basis, t),
        density.lower,
        density.upper,
        min(density.scale, *basis.widths),
    )


# ---- Section 3.1: reading


def by_projection(
    query: Tensor, coefficients: Tensor, head: int, attention: ContinuousAttention
) -> tuple[Tensor, Tensor]:
    """μ and σ² without its floor, for a query (C,) and coefficients (N, C) (paper, equations 8 and 9)."""
    d = attention.head_dim
    part = slice(head * d, (head + 1) * d)
    scores = (coefficients @ attention.k_proj.weight.T)[:, part] @ query[part] / math.sqrt(d)
    mean_logit = attention.mean_proj.weight[0] @ scores
    variance_logit = attention.variance_proj.weight[0] @ scores
    if attention.mean_offset is not None:
        mean_logit = mean_logit + attention.mean_offset[head]
        variance_logit = variance_logit + attention.variance_offset[head]
    return 1 / (1 + torch.exp(-mean_logit)), torch.log(1 + torch.exp(variance_logit))


def by_content(query: Tensor, coefficients: Tensor, head: int, attention: ContinuousAttention) -> tuple[Tensor, Tensor]:
    """Mean and variance of a position that softmax attention draws, for a query (C,) and coefficients (N, C)."""
    d = attention.head_dim
    part = slice(head * d, (head + 1) * d)
    positions = torch.linspace(0, 1, attention.basis.num_centers, dtype=torch.float64)
    weights = []
    for signal in basis_values(attention.basis, positions) @ coefficients:
        key = attention.k_proj.weight @ signal
        weights.append(torch.exp(key[part] @ query[part] / math.sqrt(d)))
    probability = torch.stack(weights) / sum(weights)
    mean = (probability * positions).sum()
    return mean, (probability * (positions - mean) ** 2).sum()


def read(
    query: Tensor, coefficients: Tensor, attention: ContinuousAttention, density: str = "gaussian"
) -> tuple[Tensor, Tensor, Tensor]:
    """Continuous attention query by query (paper, equations 8 to 12).

    Args:
        query: (B, T, C). coefficients: (B, N, C). Both float64, and so the parameters.
        attention: where the parameters are. density: the name of its density.

    Returns:
        context (B, T, C), means and variances (B, H, T).
    """
    batch, queries, dim = query.shape
    heads, d = attention.num_heads, dim // attention.num_heads
    even_odd = {"projection": [by_projection] * 2, "content": [by_content] * 2, "mixed": [by_content, by_projection]}
    context, means, variances = [], [], []
    for row in range(batch):
        values = coefficients[row] @ attention.v_proj.weight.T
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            locate = even_odd[attention.addressing][head % 2]
            for i in range(queries):
                mean, variance = locate(query[row, i], coefficients[row], head, attention)
                variance = variance + attention.min_sigma**2
                weights = expected_basis(DENSITIES[density](mean, variance), attention.basis)
                context.append(values[:, part].T @ weights)
                means.append(mean)
                variances.append(variance)
    z = torch.stack(context).view(batch, heads, queries, d).transpose(1, 2).reshape(batch, queries, dim)
    shape = (batch, heads, queries)
    return z @ attention.out_proj.weight.T, torch.stack(means).view(shape), torch.stack(variances).view(shape)


def gibbs_read(query: Tensor, coefficients: Tensor, attention: GibbsAttention) -> tuple[Tensor, GibbsDensity]:
    """The Gibbs read query by query: p_g = exp(q·k(t_g)/√d) / Σ_h exp(q·k(t_h)/√d) over the centres t_g of the basis.

    Args and returns as those of ``GibbsAttention.forward``.
    """
    d = attention.head_dim
    positions = torch.linspace(0, 1, attention.basis.num_centers, dtype=torch.float64)
    context, densities = [], []
    for row_query, row in zip(query, coefficients):
        signal = basis_values(attention.basis, positions) @ row
        keys, values = signal @ attention.k_proj.weight.T, signal @ attention.v_proj.weight.T
        for head in range(attention.num_heads):
            part = slice(head * d, (head + 1) * d)
            for q in row_query:
                p = torch.exp(keys[:, part] @ q[part] / math.sqrt(d))
                p = p / p.sum()
                context.append(p @ values[:, part])
                mean = (p * positions).sum()
                densities.append((mean, (p * (positions - mean) ** 2).sum(), p))
    shape = (len(query), attention.num_heads, query.shape[1])
    context = torch.stack(context).view(*shape, d).transpose(1, 2).flatten(2) @ attention.out_proj.weight.T
    return context, GibbsDensity(*(torch.stack(each).detach().unflatten(0, shape) for each in zip(*densities)))


def kl(mean: Tensor, variance: Tensor, sigma: float) -> Tensor:
    """``KL(N(mean, variance) ‖ N(mean, sigma²))``, (), of scalars (the paper's regulariser)."""
    density = gaussian(mean, variance)

    def integrand(t: Tensor) -> Tensor:
        # The quotient's logarithm term by term: both densities underflow in their tails.
        distance = (t - mean) ** 2
        exponents = distance / (2 * sigma**2) - distance / (2 * variance)
        return density.pdf(t) * (exponents - torch.log(variance / sigma**2) / 2)

    return integrate(integrand, density.lower, density.upper, density.scale)


# ---- Section 3.2: writing


def contraction(memory: ContinuousMemory, num_tokens: int, length: int) -> float:
    """τ, the part of [0, 1] that ``num_tokens`` in memory keep when ``length`` more come; no grid."""
    if num_tokens == 0:
        return 0.0
    if memory.contraction == "fixed":
        return memory.tau
    sharing = num_tokens if memory.horizon is None else min(num_tokens, memory.horizon)
    share = {"square-root": math.sqrt, "logarithmic": math.log1p}.get(memory.contraction, float)
    return share(sharing) / share(sharing + length)


def write(
    coefficients: Tensor,
    num_tokens: int,
    x: Tensor,
    length: int,
    memory: ContinuousMemory,
    samples: Optional[list[float]] = None,
    largest: float = math.inf,
) -> Tensor:
    """One row's memory after the first ``length`` vectors of ``x`` were added (paper, section 3.2 and sticky memories).

    Args:
        coefficients: (N, C) of the memory before, which has seen ``num_tokens``. x: (L, C). Both float64.
        memory: where the settings are.
        samples: the M positions at which the old signal is sampled; absent: midpoints.
        largest: the norm that no sample of the old signal exceeds; longer ones are scaled down to it.

    Returns:
        (N, C).
    """
    if length == 0:
        return coefficients
    tau = contraction(memory, num_tokens, length)
    if samples is None:
        samples = [(m + 0.5) / memory.samples for m in range(memory.samples)]
    positions, targets = [], []
    if num_tokens > 0:
        for m, sample in enumerate(samples):
            positions.append(torch.tensor([tau * (m + 0.5) / len(samples)], dtype=torch.float64))
            value = basis_values(memory.basis, torch.tensor([sample], dtype=torch.float64))[0] @ coefficients
            targets.append(value * (largest / value.norm()) if float(value.norm()) > largest else value)
    for i in range(length):
        positions.append(torch.tensor([tau + (1 - tau) * (i + 0.5) / length], dtype=torch.float64))
        targets.append(x[i])
    design = basis_values(memory.basis, torch.cat(positions))
    regression = Regression(memory.basis.num_basis, memory.basis.widths, memory.samples, memory.ridge)
    step = Step(tau, length, memory.contraction == "fixed" or memory.horizon is not None)
    return ridge_regression(design, torch.stack(targets), ridge_used(regression, step))


# ---- Sticky memories: where the old signal is sampled


def density_mass(density: ReferenceDensity, start: float, stop: float) -> Tensor:
    """Mass () of the density between ``start`` and ``stop``."""
    points = density.lower.new_tensor([start, stop])
    lower, upper = torch.clamp(points, density.lower, density.upper)
    return integrate(density.pdf, lower, upper, density.scale)


def attention_histogram(densities: list[ReferenceDensity], num_bins: int) -> list[float]:
    """The share of each bin of [0, 1] in the mass that the densities of one row lay on it (paper, sticky memories)."""
    edges = [number / num_bins for number in range(num_bins + 1)]
    masses = [sum(float(density_mass(d, *bin)) for d in densities) for bin in pairwise(edges)]
    total = sum(masses)
    return [mass / total if total > 0 else 1 / num_bins for mass in masses]


def quantile(histogram: list[float], probability: float) -> float:
    """The position left of which the histogram, even inside a bin, has this probability."""
    for number, mass in enumerate(histogram):
        if probability < mass:
            return (number + probability / mass) / len(histogram)
        probability -= mass
    return 1.0
