"""The reference against what is known without it."""

import math

import pytest
import torch

from fairseq_infformer.modules import GaussianBasis
from fairseq_infformer.modules.memories.continuous import naive


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_gauss_legendre_is_exact_for_polynomials_up_to_degree_39():
    nodes, weights = naive.gauss_legendre()
    for degree in (0, 1, 7, 38, 39):
        assert float(weights @ nodes**degree) == pytest.approx(1 / (degree + 1), rel=1e-12)


@pytest.mark.parametrize("sigma", [0.003, 0.05, 0.8])
@pytest.mark.parametrize("mean", [0.0, 0.3, 1.0])
def test_density_mass_of_gaussians_matches_the_closed_form(mean, sigma):
    inside = (math.erf((1 - mean) / sigma / math.sqrt(2)) + math.erf(mean / sigma / math.sqrt(2))) / 2
    masses = {"gaussian": inside, "renormalized-gaussian": 1.0, "truncated-gaussian": 1.0}
    for name, mass in masses.items():
        density = naive.DENSITIES[name](scalar(mean), scalar(sigma**2))
        assert float(naive.density_mass(density, 0.0, 1.0)) == pytest.approx(mass, rel=1e-11)


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.8])
def test_kl_matches_the_closed_form_of_the_paper(sigma):
    ratio = (sigma / 0.05) ** 2
    measured = float(naive.kl(scalar(0.7), scalar(sigma**2), 0.05))
    assert measured == pytest.approx((ratio - math.log(ratio) - 1) / 2, rel=1e-11, abs=1e-12)


def test_ridge_regression_solves_the_normal_equations():
    design, targets = torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    solution = naive.ridge_regression(design, targets, 0.3)
    gradient = design.T @ (design @ solution - targets) + 0.3 * solution
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_expected_basis_of_a_gaussian_is_a_wider_gaussian():
    basis = GaussianBasis(9, (0.05,))
    weights = naive.expected_basis(naive.gaussian(scalar(0.4), scalar(0.03**2)), basis)
    peak = 1 / math.sqrt(2 * math.pi * (0.03**2 + 0.05**2))
    exponent = -((0.4 - 0.5) ** 2) / 2 / (0.03**2 + 0.05**2)  # of the middle function, centred at ½
    assert float(weights[4]) == pytest.approx(peak * math.exp(exponent), rel=1e-11)
