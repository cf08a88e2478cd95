"""The linear map of an update: contraction, sampling and ridge regression in one, solved once and cached.

It depends on the positions of samples and new vectors alone: it is solved in float64, and shared by rows, layers and
heads. Where the old signal is sampled changes the right-hand side alone. ``README.md`` has the formulas.
"""

import math
from collections import OrderedDict
from functools import lru_cache
from typing import NamedTuple, Optional

import torch
from torch import Tensor

from .basis import GaussianBasis
from .sampling import midpoints

# How many solved operators are kept, of 2 MiB each at N = L = 512: few for rows of equal age, which need no more memory
# for a million tokens than for thousands; more for rows of different ages, which need them again.
OPERATORS_KEPT, OPERATORS_KEPT_AT_MOST, OPERATORS_KEPT_FOR_EACH_NEEDED = 32, 128, 8
# A memory that grows by more than this with every update would overflow. What is written shortly after it may be
# stretched at the ends of [0, 1], by a few per cent that the next contraction takes back.
GROWTH_ALLOWED = 1.1
# Where the same map is applied at every update, any growth compounds. It was seen with at most 5 vectors at a time,
# which leave most functions of the basis undetermined.
FEW_VECTORS = 16
# The smallest λ that can be asked for: under it, coefficients are so large that in float32 nothing is left of what
# their sum should be.
LEAST_RIDGE = 1e-8


class Regression(NamedTuple):
    """What all updates of a memory have in common."""

    num_basis: int  # N
    widths: tuple[float, ...]
    samples: int  # M
    ridge: float  # λ that is asked for


class Step(NamedTuple):
    """What distinguishes one update."""

    tau: float  # the part of [0, 1] that the old signal keeps; 0 where there is none
    length: int  # L
    repeated: bool = False  # whether τ is the same at every update: under a fixed contraction, and beyond a horizon


@torch.inference_mode(False)  # what is solved during an evaluation also serves training
@torch.no_grad()
def refit_operators(
    regression: Regression, step: Step, from_samples: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The linear map of one update, ``Θ' = A Θ + G X``, or with ``from_samples`` ``Θ' = P S + G X``.

    Returns:
        A (N, N), for an old signal of coefficients Θ that is sampled at M midpoints, or P (N, M), for M samples S taken
        anywhere, in order; and G (N, L). The λ is that of ``ridge_used``.
    """
    old_map, new_map, _ = _stable(regression, step)
    if not from_samples:
        old_map = old_map @ _sample_basis(regression)
    return old_map.to(device, dtype), new_map.to(device, dtype)


@lru_cache(maxsize=4096)
def ridge_used(regression: Regression, step: Step) -> float:
    """The λ actually used: the one asked for, times ten until the system is solvable and no old signal grows.

    It differs from the one asked for only at a few pairs of τ and L, at which few new vectors leave functions of the
    basis undetermined: what these do between the vectors is up to the regression, and the next update would take it
    for the signal.
    """
    return _stable(regression, step)[2]


@lru_cache(maxsize=128)
def growth(regression: Regression, tau: float) -> float:
    """The factor by which an old signal grows per update of many vectors at τ, in the long run.

    It stays near or under 1 unless the samples are too few for the basis: what lies between them is then left to the
    regression, which may answer with anything, and each update takes that answer for the signal.
    """
    solved = _solve(*_equations(regression, Step(tau, 32)), regression.ridge)
    return math.inf if solved is None else _spectral_radius(solved[0], _sample_basis(regression))


def _sample_basis(regression: Regression) -> Tensor:
    """The basis at the M midpoints, (M, N)."""
    basis = GaussianBasis(regression.num_basis, regression.widths)
    return basis.evaluate(midpoints(regression.samples))


def _stable(regression: Regression, step: Step) -> tuple[Tensor, Tensor, float]:
    """P, G and the λ of one update."""
    samples = _sample_basis(regression)
    old, new = _equations(regression, step)
    ridge = regression.ridge
    while True:
        solved = _solve(old, new, ridge)
        if solved is not None and _is_stable(solved[0], samples, step.repeated and 0 < step.length < FEW_VECTORS):
            return *solved, ridge
        ridge *= 10


def _is_stable(from_samples: Tensor, samples: Tensor, compounds: bool) -> bool:
    """Whether old coefficients, which an update multiplies with ``from_samples @ samples``, grow within bounds."""
    estimate = _spectral_radius(from_samples, samples)
    if not compounds or estimate > GROWTH_ALLOWED or not estimate > 0:
        return estimate <= GROWTH_ALLOWED
    return float(torch.linalg.eigvals(from_samples @ samples).abs().max()) <= 1


def _equations(regression: Regression, step: Step) -> tuple[Tensor, Tensor]:
    """The basis at the M positions of the samples and at the L of the new vectors, (M, N) and (L, N)."""
    basis = GaussianBasis(regression.num_basis, regression.widths)
    old = basis.evaluate(step.tau * midpoints(regression.samples))
    new = basis.evaluate(midpoints(step.length, step.tau, 1.0))
    return torch.zeros_like(old) if step.tau == 0 else old, new


def _solve(old: Tensor, new: Tensor, ridge: float) -> Optional[tuple[Tensor, Tensor]]:
    """P (N, M) and G (N, L); None where λ is too small for float64."""
    gram = old.T @ old + new.T @ new
    gram.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):
        return None
    return torch.cholesky_solve(torch.cat([old, new]).T, factor).split([len(old), len(new)], dim=1)


def _spectral_radius(from_samples: Tensor, samples: Tensor) -> float:
    """The spectral radius of ``from_samples @ samples``, by power iteration."""
    vector = torch.randn(samples.shape[1], 2, dtype=samples.dtype, generator=torch.Generator().manual_seed(0))
    factors = []
    for _ in range(24):
        vector = from_samples @ (samples @ vector)
        factors.append(float(vector.norm()))
        if not 0 < factors[-1] < math.inf:
            return factors[-1]
        vector = vector / factors[-1]
    return math.exp(sum(math.log(factor) for factor in factors[12:]) / 12)  # the first only align the vector


class OperatorCache:
    """The operators solved last, each under the arguments of ``refit_operators``."""

    def __init__(self) -> None:
        self.solved: OrderedDict[tuple, tuple[Tensor, Tensor]] = OrderedDict()
        self.room = OPERATORS_KEPT

    def get(self, wanted: list[tuple]) -> list[tuple[Tensor, Tensor]]:
        """What one batch needs, solved where it is not held."""
        self.room = max(self.room, min(OPERATORS_KEPT_AT_MOST, OPERATORS_KEPT_FOR_EACH_NEEDED * len(wanted)))
        operators = []
        for arguments in wanted:
            if arguments not in self.solved:
                self.solved[arguments] = refit_operators(*arguments)
            self.solved.move_to_end(arguments)
            operators.append(self.solved[arguments])
        while len(self.solved) > self.room:
            self.solved.popitem(last=False)
        return operators


OPERATORS = OperatorCache()
