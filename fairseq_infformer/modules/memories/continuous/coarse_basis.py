"""Many wide Gaussians, rewritten as fewer and narrower ones: what a memory is read through.

``Σ_j θ_j N(t; c_j, s²) = Σ_k θ'_k N(t; x_k, s²/2)`` with ``Θ' = R Θ``, to rounding and at every t: of 256 functions of
width 0.05, 83 remain. ``README.md`` has the derivation.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn

from .basis import GaussianBasis, GaussianFunctions

# Error, in parts of a function's peak, of the integral's grid and of its ends: that of float64, with room for the
# powers of ten that second derivatives cost.
TOLERANCE = 1e-14


class CoarseGrid(NamedTuple):
    """Functions ``N(·; centers, width²)`` whose coefficients are ``resample`` times those of the finer ones."""

    centers: Tensor  # (n',) float64
    width: float
    resample: Optional[Tensor]  # (n', n) float64; None where the functions are few enough as they are


def coarse_grid(count: int, width: float) -> CoarseGrid:
    """The grid for ``count`` functions of ``width`` with centres evenly spaced on [0, 1]."""
    fine = torch.linspace(0, 1, count, dtype=torch.float64)
    decay = math.log(2 / TOLERANCE)
    spacing = width * math.pi / math.sqrt(2 * decay)
    reach = width * math.sqrt(decay)  # how far the grid extends beyond the outermost centres
    needed = math.ceil((1 + 2 * reach) / spacing) + 1
    if needed >= count:
        return CoarseGrid(fine, width, None)
    centers = 0.5 + spacing * (torch.arange(needed, dtype=torch.float64) - (needed - 1) / 2)
    distance = centers[:, None] - fine
    resample = spacing / (width * math.sqrt(math.pi)) * torch.exp(-((distance / width) ** 2))
    return CoarseGrid(centers, width / math.sqrt(2), resample)


class CoarseBasis(nn.Module, GaussianFunctions):
    """The functions of a ``GaussianBasis``, those of each width rewritten as fewer ones where they overlap that much.

    Signals of the basis are signals of this one: ``basis.evaluate(t) @ Θ = coarse.evaluate(t) @ coarse.resample(Θ)``.
    Its buffers follow the model's device, stay in float32, and are in no state dict.
    """

    def __init__(self, basis: GaussianBasis) -> None:
        super().__init__()
        self.counts = [count for count, _ in basis.by_width()]
        self.grids = [coarse_grid(count, width) for count, width in basis.by_width()]
        self.centers = torch.cat([grid.centers for grid in self.grids])
        self.scales = torch.cat([torch.full_like(grid.centers, grid.width) for grid in self.grids])
        for name, value in self._exact().items():
            self.register_buffer(name, value.float(), persistent=False)

    def _exact(self) -> dict[str, Tensor]:
        resample = {f"resample_{k}": grid.resample for k, grid in enumerate(self.grids) if grid.resample is not None}
        return {"single_centers": self.centers, "single_scales": self.scales} | resample

    def by_width(self) -> list[tuple[int, float]]:
        return [(len(grid.centers), grid.width) for grid in self.grids]

    def grid_like(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if t.dtype == torch.float64:
            return self.centers.to(t.device), self.scales.to(t.device)
        return self.single_centers, self.single_scales

    def resample(self, coefficients: Tensor) -> Tensor:
        """The coefficients (..., N', C) of the signal with the basis' coefficients (..., N, C)."""
        parts = []
        for k, (grid, part) in enumerate(zip(self.grids, coefficients.split(self.counts, dim=-2))):
            if grid.resample is not None:
                exact = coefficients.dtype == torch.float64
                matrix = grid.resample.to(part.device) if exact else getattr(self, f"resample_{k}")
                part = matrix @ part
            parts.append(part)
        return torch.cat(parts, dim=-2)

    def _apply(self, fn: Callable, recurse: bool = True) -> "CoarseBasis":
        # model.half() and model.bfloat16() cast every buffer; move the grid, but never round it.
        super()._apply(fn, recurse)
        for name, value in self._exact().items():
            setattr(self, name, value.to(getattr(self, name).device, torch.float32))
        return self
