"""Each registered density against numerical integrals. A new one needs an entry in naive.DENSITIES."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fairseq_infformer.modules import (
    DENSITIES,
    ContinuousAttention,
    ContinuousMemory,
    ContinuousState,
    GaussianBasis,
    register_density,
)
from fairseq_infformer.modules.memories.continuous import naive
from fairseq_infformer.modules.memories.continuous.density import find_density

BASES = [GaussianBasis(12, (0.05, 0.2)), GaussianBasis(9, (0.02, 0.1, 0.3))]


@pytest.fixture(params=sorted(DENSITIES))
def name(request) -> str:
    return request.param


@pytest.fixture(params=BASES, ids=lambda basis: str(basis.num_basis))
def basis(request) -> GaussianBasis:
    return request.param


def parameters(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and variances (24,), from the ends to the middle and from a spike to a flat read."""
    means = torch.tensor([0.0, 0.004, 0.31, 0.5, 0.96, 1.0], dtype=torch.float64)
    sigmas = torch.tensor([0.01, 0.06, 0.4, 2.0], dtype=torch.float64)
    mean, sigma = torch.cartesian_prod(means, sigmas).unbind(1)
    return mean.to(dtype), sigma.square().to(dtype)


def expected(name: str, mean: torch.Tensor, variance: torch.Tensor, basis: GaussianBasis) -> torch.Tensor:
    densities = [naive.DENSITIES[name](*pair) for pair in zip(mean, variance)]
    return torch.stack([naive.expected_basis(density, basis) for density in densities])


def test_expected_matches_the_integral(name, basis):
    mean, variance = parameters()
    fast = DENSITIES[name](mean, variance).expected(basis)
    torch.testing.assert_close(fast, expected(name, mean, variance, basis), rtol=1e-10, atol=1e-10)


def test_read_equals_expected_times_values(name, basis):
    mean, variance = (x.view(2, 3, 4) for x in parameters())
    torch.manual_seed(0)
    values = torch.randn(2, 3, basis.num_basis, 5, dtype=torch.float64)
    fast = DENSITIES[name](mean, variance).read(values, basis)
    slow = expected(name, mean.flatten(), variance.flatten(), basis).view(2, 3, 4, -1) @ values
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10 * float(slow.abs().max()))


def test_expected_in_float32_is_close_to_float64(name, basis):
    exact = DENSITIES[name](*parameters()).expected(basis)
    single = DENSITIES[name](*parameters(torch.float32)).expected(basis)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.max()))


def test_expected_matches_the_integral_in_gradients(name, basis):
    mean, variance = (x.requires_grad_() for x in parameters())
    torch.manual_seed(0)
    weights = torch.randn(len(mean), basis.num_basis, dtype=torch.float64)
    fast = (DENSITIES[name](mean, variance).expected(basis) * weights).sum()
    slow = (expected(name, mean, variance, basis) * weights).sum()
    for a, b in zip(torch.autograd.grad(fast, (mean, variance)), torch.autograd.grad(slow, (mean, variance))):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


def test_read_passes_gradcheck(name):
    def read(mean, variance, values):
        return DENSITIES[name](mean, variance).read(values, BASES[0])

    torch.manual_seed(0)
    mean = torch.rand(1, 2, 3, dtype=torch.float64, requires_grad=True)
    variance = (0.02 + 0.2 * torch.rand(1, 2, 3, dtype=torch.float64)).requires_grad_()
    values = torch.randn(1, 2, 12, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(read, (mean, variance, values))


def test_cdf_is_the_mass_to_the_left(name):
    mean, variance = parameters()
    edges = torch.tensor([0.0, 0.1, 0.35, 0.5, 0.9, 1.0], dtype=torch.float64)
    fast = DENSITIES[name](mean, variance).cdf(edges).diff(dim=-1)
    for i, pair in enumerate(zip(mean, variance)):
        density = naive.DENSITIES[name](*pair)
        bins = zip(edges[:-1].tolist(), edges[1:].tolist())
        slow = torch.stack([naive.density_mass(density, start, stop) for start, stop in bins])
        torch.testing.assert_close(fast[i], slow, rtol=1e-10, atol=1e-10)
    ends = DENSITIES[name](mean, variance).cdf(torch.tensor([-100.0, 100.0], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0], dtype=torch.float64).expand_as(ends))


def test_expected_of_a_narrow_density_is_the_basis_at_its_mean(name, basis):
    mean = torch.tensor([0.002, 0.3, 0.77], dtype=torch.float64)
    variance = torch.full_like(mean, 1e-12).requires_grad_()
    weights = DENSITIES[name](mean, variance).expected(basis)
    # What is left of a width of 1e-6: ½σ²ψ'', with ψ'' at most ψ(0)/s², which is 5e4 at s = .02.
    torch.testing.assert_close(weights, basis.evaluate(mean), rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(weights.sum(), variance)
    assert bool(gradient.isfinite().all())


def test_find_density_lists_the_choices_for_an_unknown_name():
    with pytest.raises(ValueError, match=r"density must be one of .*truncated-gaussian, got 'gauss'"):
        find_density("gauss")


def test_register_density_makes_a_name_usable_once(monkeypatch):
    monkeypatch.setattr("fairseq_infformer.modules.memories.continuous.density.DENSITIES", dict(DENSITIES))
    register_density("another")(DENSITIES["gaussian"])
    attention = ContinuousAttention(4, 2, BASES[0], density="another")
    _, density = attention(torch.randn(1, 3, 4), torch.randn(1, 12, 4))
    assert isinstance(density, DENSITIES["gaussian"])
    with pytest.raises(ValueError, match="'another' is registered already: GaussianDensity"):
        register_density("another")(DENSITIES["gaussian"])


def test_register_density_accepts_further_parameters(monkeypatch):
    """A Gaussian at the mean and one at a place of its own, half and half."""
    monkeypatch.setattr("fairseq_infformer.modules.memories.continuous.density.DENSITIES", dict(DENSITIES))

    @register_density("pair")
    class Pair(NamedTuple):
        mean: Tensor
        variance: Tensor
        other: Tensor

        def _both(self) -> list:
            return [DENSITIES["gaussian"](mean, self.variance) for mean in (self.mean, torch.sigmoid(self.other))]

        def read(self, values: Tensor, basis) -> Tensor:
            return sum(density.read(values, basis) for density in self._both()) / 2

        def cdf(self, t: Tensor) -> Tensor:
            return sum(density.cdf(t) for density in self._both()) / 2

    torch.manual_seed(0)
    basis = GaussianBasis(16, (0.1,))
    attention = ContinuousAttention(8, 2, basis, "pair", flat_start=True)
    query, coefficients = torch.randn(3, 5, 8), torch.randn(3, 16, 8)
    context, density = attention(query, coefficients)
    context.square().sum().backward()
    assert density.other.shape == (3, 2, 5) and bool(attention.further_proj.weight.grad.any())
    memory = ContinuousMemory(basis, 32, contraction="fixed", sampling="sticky")
    state = ContinuousState(coefficients, torch.tensor([9, 9, 9]), torch.full((3,), 100.0))
    moved = density._replace(other=density.other + 3)
    kept, other = (memory.write(state, query, density=read).coefficients for read in (density, moved))
    assert not torch.allclose(kept, other)
    with pytest.raises(ValueError, match="addressing must be projection for the density pair, got content"):
        ContinuousAttention(8, 2, basis, "pair", addressing="content")
