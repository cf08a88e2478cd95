import pytest
import torch

from fairseq_infformer.modules.basis import gaussian_pdf
from fairseq_infformer.modules.coarse_grid import coarse_grid

CPU = torch.device("cpu")


@pytest.mark.parametrize("count, width, fewer", [(256, 0.05, 83), (90, 0.15, 48), (2000, 0.01, 289), (60, 2.0, 32)])
def test_fewer_functions_are_the_same_functions(count, width, fewer):
    """Up to the second derivative, which the gradient of the variance rests on, inside [0, 1] and outside."""
    grid = coarse_grid(count, width, torch.float64, CPU)
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
def test_functions_that_overlap_little_stay_as_they_are(count, width):
    grid = coarse_grid(count, width, torch.float64, CPU)
    assert grid.resample is None and grid.width == width
    torch.testing.assert_close(grid.centers, torch.linspace(0, 1, count, dtype=torch.float64))


def test_a_grid_made_in_inference_mode_serves_training():
    coarse_grid.cache_clear()
    with torch.inference_mode():
        coarse_grid(256, 0.05, torch.float32, CPU)
    values = torch.ones(256, 1, requires_grad=True)
    (coarse_grid(256, 0.05, torch.float32, CPU).resample @ values).sum().backward()
    assert bool(values.grad.isfinite().all())
