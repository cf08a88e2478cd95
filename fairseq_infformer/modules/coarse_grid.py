"""Many wide Gaussians, rewritten as fewer and narrower ones.

Two Gaussians convolved are a Gaussian, ``N(t; c, s²) = ∫ N(t; x, s²/2) N(x; c, s²/2) dx``, and the trapezoidal rule on
a grid of spacing h integrates one to ``2 exp(-π² s²/2h²)`` of it (Poisson summation; Trefethen & Weideman 2014). So
``Σ_j B_j N(t; c_j, s²) = Σ_k B'_k N(t; x_k, s²/2)`` with ``B' = R B``, ``R_kj = h N(x_k; c_j, s²/2)``, to rounding: of
256 functions of width .05, 83 remain. It holds at every t, so under every density and for all derivatives.
"""

import math
from functools import lru_cache
from typing import NamedTuple, Optional

import torch
from torch import Tensor

# Error, in parts of a function's peak, of the integral's grid and of its ends: that of float64, with room for the
# powers of ten that second derivatives cost.
TOLERANCE = 1e-14


class CoarseGrid(NamedTuple):
    """Functions ``N(·; centers, width²)`` whose coefficients are ``resample`` times those of the finer ones."""

    centers: Tensor  # (n',)
    width: float
    resample: Optional[Tensor]  # (n', n); None where the functions are few enough as they are


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is made during an evaluation also serves training
@torch.no_grad()
def coarse_grid(count: int, width: float, dtype: torch.dtype, device: torch.device) -> CoarseGrid:
    """The grid for ``count`` functions of ``width`` with centres evenly spaced on [0, 1]."""
    fine = torch.linspace(0, 1, count, dtype=torch.float64)
    decay = math.log(2 / TOLERANCE)
    spacing = width * math.pi / math.sqrt(2 * decay)
    reach = width * math.sqrt(decay)  # how far the grid goes on beyond the outermost centres
    needed = math.ceil((1 + 2 * reach) / spacing) + 1
    if needed >= count:
        return CoarseGrid(fine.to(device, dtype), width, None)
    centers = 0.5 + spacing * (torch.arange(needed, dtype=torch.float64) - (needed - 1) / 2)
    distance = centers[:, None] - fine
    resample = spacing / (width * math.sqrt(math.pi)) * torch.exp(-((distance / width) ** 2))
    return CoarseGrid(centers.to(device, dtype), width / math.sqrt(2), resample.to(device, dtype))
