import copy

import pytest
import torch

from fairseq_infformer.modules import GaussianBasis
from fairseq_infformer.modules.memories.continuous import naive

BASES = [(8, (0.1,)), (12, (0.05, 0.2)), (9, (0.02, 0.1, 0.3)), (2, (0.1, 0.2))]
CASTS = [torch.nn.Module.half, torch.nn.Module.bfloat16, torch.nn.Module.double]


@pytest.fixture(params=BASES)
def basis(request) -> GaussianBasis:
    return GaussianBasis(*request.param)


def line(count: int = 21) -> torch.Tensor:
    return torch.linspace(-0.3, 1.3, count, dtype=torch.float64)


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """Narrow and wide, inside and at the ends: means and variances, (15,) each."""
    means = torch.tensor([0.0, 0.013, 0.5, 0.8, 1.0], dtype=torch.float64)
    sigmas = torch.tensor([0.01, 0.1, 0.9], dtype=torch.float64)
    mean, sigma = torch.cartesian_prod(means, sigmas).unbind(1)
    return mean, sigma.square()


def expected(basis: GaussianBasis, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    densities = [naive.gaussian(*parameters) for parameters in zip(mean, variance)]
    return torch.stack([naive.expected_basis(density, basis) for density in densities])


def test_evaluate_matches_the_formula(basis):
    slow = naive.basis_values(basis, line())
    torch.testing.assert_close(basis.evaluate(line()), slow, rtol=1e-10, atol=1e-10)


def test_evaluate_at_centers_equals_evaluate(basis):
    centers = basis.distinct_centers(line())
    torch.testing.assert_close(basis.evaluate_at_centers(centers), basis.evaluate(centers), rtol=1e-12, atol=1e-12)


def test_expected_matches_the_integral(basis):
    torch.testing.assert_close(basis.expected(*pairs()), expected(basis, *pairs()), rtol=1e-10, atol=1e-10)


def test_basis_in_float32_is_close_to_float64(basis):
    mean, variance = pairs()
    for exact, single in (
        (basis.evaluate(line()), basis.evaluate(line().float())),
        (basis.expected(mean, variance), basis.expected(mean.float(), variance.float())),
    ):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5 * float(exact.max()))


def test_evaluate_and_expected_append_the_axis_of_functions(basis):
    t = torch.rand(2, 3, 4, dtype=torch.float64)
    assert basis.evaluate(t).shape == basis.expected(t, t).shape == (2, 3, 4, basis.num_basis)
    assert basis.evaluate(t[0, 0, 0]).shape == (basis.num_basis,)
    # Many numbers are not computed as one is: exponents of up to some 1,000 differ by their rounding, 1e-13.
    torch.testing.assert_close(basis.evaluate(t)[1, 2, 3], basis.evaluate(t[1, 2, 3]), rtol=1e-12, atol=1e-12)


def test_expected_without_variance_equals_evaluate(basis):
    torch.testing.assert_close(basis.expected(line(), torch.zeros_like(line())), basis.evaluate(line()))


def test_basis_matches_reference_in_gradients(basis):
    mean, variance = (x.requires_grad_() for x in pairs())
    assert torch.autograd.gradcheck(basis.evaluate, line(7).requires_grad_())
    assert torch.autograd.gradcheck(basis.expected, (mean, variance))
    torch.manual_seed(0)
    weights = torch.randn(len(mean), basis.num_basis, dtype=torch.float64)
    fast = torch.autograd.grad((basis.expected(mean, variance) * weights).sum(), (mean, variance))
    slow = torch.autograd.grad((expected(basis, mean, variance) * weights).sum(), (mean, variance))
    for a, b in zip(fast, slow):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


@pytest.mark.parametrize("cast", CASTS)
def test_basis_is_not_rounded_by_a_cast(basis, cast):
    model = torch.nn.Sequential(copy.deepcopy(basis), torch.nn.Linear(2, 2))
    cast(model)
    assert model[0].centers.dtype == model[0].scales.dtype == torch.float32
    assert torch.equal(model[0].evaluate(line().float()), basis.evaluate(line().float()))


def test_load_state_dict_accepts_the_same_basis(basis):
    fresh = GaussianBasis(basis.num_basis, basis.widths)
    assert fresh.load_state_dict(basis.state_dict()).missing_keys == []
    assert torch.equal(fresh.evaluate(line()), basis.evaluate(line()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_load_state_dict_of_rounded_values_does_not_round_the_basis(dtype):
    fresh, basis = GaussianBasis(12, (0.01, 0.2)), GaussianBasis(12, (0.01, 0.2))
    fresh.load_state_dict({name: value.to(dtype) for name, value in basis.state_dict().items()})
    assert torch.equal(fresh.evaluate(line().float()), basis.evaluate(line().float()))


OTHER_BASES = [(12, (0.05, 0.1)), (14, (0.05, 0.2)), (12, (0.05,)), (12, (0.2, 0.05))]


@pytest.mark.parametrize("num_basis, widths", OTHER_BASES)
def test_load_state_dict_refuses_another_basis(num_basis, widths):
    saved = GaussianBasis(num_basis, widths).state_dict()
    message = rf"has {num_basis} functions.* model's has 12 of widths \(0.05, 0.2\)"
    with pytest.raises(ValueError, match=message):
        GaussianBasis(12, (0.05, 0.2)).load_state_dict(saved)


@pytest.mark.parametrize(
    "num_basis, widths, message",
    [
        (0, (0.1,), "num_basis must be a positive multiple.* got 0"),
        (-4, (0.1,), "num_basis must be a positive multiple.* got -4"),
        (7, (0.1, 0.2), r"number of widths \(2.* got 7; try (6|8)$"),
        (1, (0.1, 0.2, 0.3), "got 1; try 3$"),
        (8, (), r"widths must be one or more positive numbers, got \(\)"),
        (8, (0.1, -0.2), r"widths must be .* got \(0.1, -0.2\)"),
        (8, (0.0,), r"widths must be .* got \(0.0,\)"),
        (8, (float("nan"),), r"widths must be .* got \(nan,\)"),
        (8, (float("inf"),), r"widths must be .* got \(inf,\)"),
    ],
)
def test_basis_refuses_wrong_arguments(num_basis, widths, message):
    with pytest.raises(ValueError, match=message):
        GaussianBasis(num_basis, widths)
