"""Gaussian basis functions on [0, 1]."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fairseq_infformer.modules.settings import SettingError

# Smaller values of functions are 0: their products with coefficients would be denormal in float32.
LEAST_VALUE = 1e-30


def gaussian_pdf(t: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Normal density N(t; mean, variance); the arguments broadcast."""
    return torch.exp(-0.5 * (t - mean).square() / variance) / (2 * math.pi * variance).sqrt()


def without_denormals(values: Tensor) -> Tensor:
    """``values`` without those that are too small to matter: processors multiply by denormal numbers ten times slower
    than by 0."""
    return values.masked_fill(values < LEAST_VALUE, 0)


class GaussianFunctions(ABC):
    """A set of N Gaussians on the line, whatever their centres and widths."""

    @abstractmethod
    def grid_like(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Centres and widths, (N,) each, on the device of ``t``, in float64 if ``t`` is, else in float32."""

    @abstractmethod
    def by_width(self) -> list[tuple[int, float]]:
        """How many functions there are of each width, and the width, in the order of the functions."""

    def evaluate(self, t: Tensor) -> Tensor:
        """Values of every basis function.

        Args:
            t: positions, any shape (...).

        Returns:
            (..., N), in float64 if ``t`` is float64, else in float32.
        """
        centers, scales = self.grid_like(t)
        return without_denormals(gaussian_pdf(t.unsqueeze(-1), centers, scales.square()))

    def expected(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Expectation ``E[ψ(t)]`` under ``t ~ N(mean, variance)``, in closed form ``N(mean; c, variance + s²)``.

        Args:
            mean: (...). variance: (...), non-negative.

        Returns:
            (..., N), in float64 if ``mean`` is float64, else in float32.
        """
        centers, scales = self.grid_like(mean)
        return gaussian_pdf(mean.unsqueeze(-1), centers, variance.unsqueeze(-1) + scales.square())


class GaussianBasis(nn.Module, GaussianFunctions):
    """N Gaussian radial basis functions ``ψ_j(t) = N(t; c_j, s_j²)`` (paper, section 3.1).

    The centres ``c_j`` are evenly spaced on [0, 1], both ends included, and every centre occurs once with every
    width ``s_j``.

    Args:
        num_basis: N, a positive multiple of the number of widths.
        widths: the standard deviations, positive, in units of the interval [0, 1].

    The centres and widths are buffers that stay in float32 whatever the model's dtype. They are part of the state
    dict, so that a checkpoint whose basis differs is refused instead of being read with the wrong functions.
    """

    centers: Tensor  # (N,)
    scales: Tensor  # (N,) the width of each function

    def __init__(self, num_basis: int = 512, widths: Sequence[float] = (0.01, 0.05)) -> None:
        super().__init__()
        self.widths = tuple(float(width) for width in widths)
        if not self.widths or not all(0 < width < math.inf for width in self.widths):
            raise SettingError("widths", f"must be one or more positive numbers, got {tuple(widths)}")
        if num_basis <= 0 or num_basis % len(self.widths):
            raise SettingError(
                "num_basis",
                f"must be a positive multiple of the number of widths ({len(self.widths)}: every centre has every "
                f"width), got {num_basis}; try {max(1, round(num_basis / len(self.widths))) * len(self.widths)}",
            )
        self.num_basis, self.num_centers = num_basis, num_basis // len(self.widths)
        centers, scales = self.float64_grid()
        self.register_buffer("centers", centers.float())
        self.register_buffer("scales", scales.float())

    def float64_grid(self) -> tuple[Tensor, Tensor]:
        """Centres and widths, (N,) each, in float64 on the CPU: what operators are solved with."""
        centers = torch.linspace(0, 1, self.num_centers, dtype=torch.float64)
        widths = torch.tensor(self.widths, dtype=torch.float64)
        return centers.repeat(len(widths)), widths.repeat_interleave(len(centers))

    def grid_like(self, t: Tensor) -> tuple[Tensor, Tensor]:
        if t.dtype == torch.float64:
            centers, scales = self.float64_grid()
            return centers.to(t.device), scales.to(t.device)
        return self.centers, self.scales

    def distinct_centers(self, like: Tensor) -> Tensor:
        """The distinct centres (num_centers,), dtype and device as in ``grid_like``."""
        return self.grid_like(like)[0][: self.num_centers]

    def evaluate_at_centers(self, like: Tensor) -> Tensor:
        """``evaluate(distinct_centers(like))``, (num_centers, N): a value depends on the distance of two centres only,
        so that few are computed."""
        centers = self.distinct_centers(like)
        distances = torch.cat([-centers.flip(0), centers[1:]])[:, None]  # from the last centre's to the first's
        scales = self.grid_like(like)[1][:: self.num_centers]
        values = without_denormals(gaussian_pdf(distances, torch.zeros_like(scales), scales.square()))
        return values.unfold(0, self.num_centers, 1).flip(0).flatten(1)

    def by_width(self) -> list[tuple[int, float]]:
        return [(self.num_centers, width) for width in self.widths]

    def extra_repr(self) -> str:
        return f"num_basis={self.num_basis}, widths={self.widths}"

    def _apply(self, fn: Callable, recurse: bool = True) -> "GaussianBasis":
        # model.half() and model.bfloat16() cast every buffer; move the grid, but never round it.
        super()._apply(fn, recurse)
        self._restore_grid()
        return self

    def _restore_grid(self) -> None:
        centers, scales = self.float64_grid()
        self.centers = centers.to(self.centers.device, torch.float32)
        self.scales = scales.to(self.scales.device, torch.float32)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        saved = [state_dict.get(prefix + name) for name in ("centers", "scales")]
        if all(grid is not None for grid in saved):
            own = (self.centers.cpu(), self.scales.cpu())
            same = all(a.shape == b.shape and torch.allclose(a.float().cpu(), b, rtol=4e-3) for a, b in zip(saved, own))
            if not same:
                widths = tuple(round(float(w), 6) for w in saved[1].float().unique())
                raise ValueError(
                    f"the checkpoint's basis has {len(saved[0])} functions of widths {widths}, the model's has "
                    f"{self.num_basis} of widths {self.widths}; build the model with the checkpoint's "
                    "--ltm-basis and --ltm-widths"
                )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._restore_grid()  # the checkpoint may have been saved in half precision
