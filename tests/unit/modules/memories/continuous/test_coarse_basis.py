import pytest
import torch

from fairseq_infformer.modules.memories.continuous.basis import GaussianBasis, gaussian_pdf
from fairseq_infformer.modules.memories.continuous.coarse_basis import CoarseBasis, coarse_grid


@pytest.mark.parametrize("count, width, fewer", [(256, 0.05, 83), (90, 0.15, 48), (2000, 0.01, 289), (60, 2.0, 32)])
def test_coarse_grid_rebuilds_functions_and_their_derivatives(count, width, fewer):
    """Up to the second derivative, which the gradient of the variance rests on, inside [0, 1] and outside."""
    grid = coarse_grid(count, width)
    assert len(grid.centers) == fewer
    t = torch.linspace(-1, 2, 3001, dtype=torch.float64)
    fine = torch.linspace(0, 1, count, dtype=torch.float64)

    def derivatives(centers: torch.Tensor, scale: float) -> list[torch.Tensor]:
        variance = torch.tensor(scale**2, dtype=torch.float64)
        value = gaussian_pdf(t[:, None], centers, variance)
        z = (t[:, None] - centers) / scale
        return [value, -z / scale * value, (z**2 - 1) / scale**2 * value]

    for exact, narrower in zip(derivatives(fine, width), derivatives(grid.centers, grid.width)):
        torch.testing.assert_close(narrower @ grid.resample, exact, rtol=0, atol=1e-11 * float(exact.abs().max()))


@pytest.mark.parametrize("count, width", [(1, 0.05), (3, 0.5), (256, 0.01), (32, 0.05)])
def test_coarse_grid_keeps_functions_that_overlap_little(count, width):
    grid = coarse_grid(count, width)
    assert grid.resample is None and grid.width == width
    torch.testing.assert_close(grid.centers, torch.linspace(0, 1, count, dtype=torch.float64))


@pytest.mark.parametrize("basis", [GaussianBasis(180, (0.02, 0.15)), GaussianBasis(12, (0.05,))])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_coarse_basis_keeps_signals_and_expectations(basis, dtype, tolerance):
    coarse = CoarseBasis(basis).to(torch.bfloat16)  # as a model in half precision does
    torch.manual_seed(0)
    coefficients, t = torch.randn(2, basis.num_basis, 3, dtype=dtype), torch.linspace(0, 1, 50, dtype=dtype)
    signal = basis.evaluate(t) @ coefficients
    error = coarse.evaluate(t) @ coarse.resample(coefficients) - signal
    assert float(error.abs().max()) < tolerance * float(signal.abs().max())
    mean, variance = t, 0.01 + t.square()
    read = basis.expected(mean, variance) @ coefficients
    error = coarse.expected(mean, variance) @ coarse.resample(coefficients) - read
    assert float(error.abs().max()) < tolerance * float(read.abs().max())
    assert not coarse.state_dict()
