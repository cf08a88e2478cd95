"""The expectation of a continuous signal under Gaussians: ``z_t = Σ_j N(μ_t; c_j, σ_t² + s_j²) V_j``.

Width by width, the functions are rewritten as fewer ones where they overlap that much (``coarse_grid``); their sum and
its gradients come from ``gaussian_sum``, or from its Triton kernels on a GPU, unless the environment has
``INFFORMER_TRITON=0``. It is one operator to PyTorch, so that ``torch.compile`` and ``torch.export`` take it as it is.
"""

import logging
import os
from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import Optional

import torch
from torch import Tensor

from . import gaussian_sum
from .basis import GaussianBasis
from .coarse_grid import CoarseGrid, coarse_grid

logger = logging.getLogger(__name__)

# Widest head that a tile of the Triton kernels leaves room for.
TRITON_DIM = 256


def gaussian_read(mean: Tensor, variance: Tensor, values: Tensor, basis: GaussianBasis) -> Tensor:
    """``E_t[Σ_j ψ_j(t) V_j]`` under ``t ~ N(mean, variance)`` (paper, equations 11 and 12).

    Args:
        mean, variance: (B, H, T), float32 or float64.
        values: V of each head, (B, H, N, d), of the same dtype.

    Returns:
        (B, H, T, d). Gradients of the first order flow to all three.
    """
    flat = _read(mean.flatten(0, 1), variance.flatten(0, 1), values.flatten(0, 1), list(basis.widths))
    return flat.unflatten(0, mean.shape[:2])


@torch.library.custom_op(
    "fairseq_infformer::gaussian_read",
    mutates_args=(),
    schema="(Tensor mean, Tensor variance, Tensor values, float[] widths) -> Tensor",
)
def _read(mean: Tensor, variance: Tensor, values: Tensor, widths: list[float]) -> Tensor:
    kernels = _kernels(values)
    context = values.new_zeros(*mean.shape, values.shape[-1])
    for _, grid, part in _by_width(values, widths):
        context += kernels.gaussian_sum(mean, variance + grid.width**2, part, grid.centers)
    return context


@torch.library.custom_op(
    "fairseq_infformer::gaussian_read_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor mean, Tensor variance, Tensor values, float[] widths) -> (Tensor, Tensor, Tensor)",
)
def _read_backward(
    grad: Tensor, mean: Tensor, variance: Tensor, values: Tensor, widths: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels(values)
    grad_mean, grad_variance, grad_values = (torch.zeros_like(x) for x in (mean, variance, values))
    for columns, grid, part in _by_width(values, widths):
        by_mean, by_variance, by_part = kernels.gaussian_sum_backward(
            grad, mean, variance + grid.width**2, part, grid.centers
        )
        grad_mean += by_mean
        grad_variance += by_variance
        grad_values[:, columns] = by_part if grid.resample is None else grid.resample.T @ by_part
    return grad_mean, grad_variance, grad_values


@_read.register_fake
def _(mean, variance, values, widths):
    return values.new_empty(*mean.shape, values.shape[-1])


@_read_backward.register_fake
def _(grad, mean, variance, values, widths):
    return torch.empty_like(mean), torch.empty_like(variance), torch.empty_like(values)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.widths = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, grad: Tensor):
    return *_read_backward(grad, *ctx.saved_tensors, ctx.widths), None


_read.register_autograd(_gradients, setup_context=_save)


def _by_width(values: Tensor, widths: list[float]) -> Iterator[tuple[slice, CoarseGrid, Tensor]]:
    """For each width: where its functions are, the grid that they are read on, and their values (R, n', d) there."""
    count = values.shape[1] // len(widths)
    for number, width in enumerate(widths):
        columns = slice(number * count, (number + 1) * count)
        grid = coarse_grid(count, width, values.dtype, values.device)
        part = values[:, columns]
        yield columns, grid, part if grid.resample is None else grid.resample @ part


def _kernels(values: Tensor) -> ModuleType:
    """The module whose ``gaussian_sum`` and ``gaussian_sum_backward`` suit ``values``."""
    fits = values.is_cuda and values.dtype == torch.float32 and values.shape[-1] <= TRITON_DIM
    return (fits and triton_kernels(values.device)) or gaussian_sum


@lru_cache
def triton_kernels(device: torch.device) -> Optional[ModuleType]:
    """The Triton kernels, unless they are switched off or a first sum on ``device`` fails, which is logged."""
    if os.environ.get("INFFORMER_TRITON") == "0":
        return None
    try:
        from . import gaussian_sum_triton

        row = torch.ones(1, 1, device=device)
        vector, center = row[None], row[0]
        gaussian_sum_triton.gaussian_sum_backward(
            gaussian_sum_triton.gaussian_sum(row, row, vector, center), row, row, vector, center
        )
    except Exception as error:  # no Triton, no compiler, a card that it does not know: all are slower, none is wrong
        logger.warning("the read goes without Triton on %s: %s: %s", device, type(error).__name__, error)
        return None
    return gaussian_sum_triton
