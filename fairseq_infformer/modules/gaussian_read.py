"""The expectation of a continuous signal under Gaussians, without storing the basis' expectations.

``z_t = Σ_j N(μ_t; c_j, σ_t² + s_j²) V_j`` needs a T×N matrix that is cheap to compute and dear to store and to pass
over. Width by width, the functions are rewritten as fewer ones where they overlap that much (``coarse_grid``); the
matrix is then made in blocks that stay in the cache, in place, and made again for the gradients.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .basis import GaussianBasis
from .coarse_grid import coarse_grid

# Elements of one block of expectations: on a CPU 1 MiB, so that the passes over it stay within the cache; elsewhere
# enough that starting a pass costs little beside it.
BLOCK_ELEMENTS = {"cpu": 1 << 18}
BLOCK_ELEMENTS_ELSEWHERE = 1 << 24


class GaussianSum(torch.autograd.Function):
    """``Σ_j N(mean; c_j, variance) V_j``, forward and backward over blocks of rows and queries.

    Args:
        mean, variance: (R, T), with the width of the basis functions in the variance.
        values: V, (R, n, d). centers: c, (n,).

    Returns:
        (R, T, d). Gradients of the first order flow to all but the centres.
    """

    @staticmethod
    def forward(ctx, mean: Tensor, variance: Tensor, values: Tensor, centers: Tensor) -> Tensor:
        ctx.save_for_backward(mean, variance, values, centers)
        context = values.new_empty(*mean.shape, values.shape[-1])
        exponent = _exponent(variance)
        for rows, queries in _blocks(mean, centers):
            distance = mean[rows, queries, None] - centers
            kernel = distance.square_().mul_(exponent[rows, queries]).exp2_()
            torch.bmm(kernel, values[rows], out=context[rows, queries])
        return context.mul_(_peak(variance))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        mean, variance, values, centers = ctx.saved_tensors
        exponent, weighted = _exponent(variance), grad * _peak(variance)
        # With p_j = (weighted · V_j) exp(…): the sums of p, p·distance and p·distance² over the functions.
        zeroth, first, second = (torch.empty_like(mean) for _ in range(3))
        grad_values = torch.zeros_like(values)
        for block in _blocks(mean, centers):
            rows = block[0]
            distance = mean[block].unsqueeze(-1) - centers
            kernel = distance.square().mul_(exponent[block]).exp2_()
            grad_values[rows].baddbmm_(kernel.transpose(1, 2), weighted[block])
            product = torch.bmm(weighted[block], values[rows].transpose(1, 2)).mul_(kernel)
            torch.sum(product, -1, out=zeroth[block])
            torch.sum(product.mul_(distance), -1, out=first[block])
            torch.sum(product.mul_(distance), -1, out=second[block])
        return -first / variance, 0.5 * (second / variance - zeroth) / variance, grad_values, None


def gaussian_read(mean: Tensor, variance: Tensor, values: Tensor, basis: GaussianBasis) -> Tensor:
    """``E_t[Σ_j ψ_j(t) V_j]`` under ``t ~ N(mean, variance)`` (paper, equations 11 and 12).

    Under ``torch.compile`` and ``torch.export`` this is the plain formula, for the compiler to make fast.

    Args:
        mean, variance: (B, H, T), float32 or float64.
        values: V of each head, (B, H, N, d), of the same dtype.

    Returns:
        (B, H, T, d). Gradients of the first order flow to all three.
    """
    if torch.compiler.is_compiling():
        return basis.expected(mean, variance) @ values
    flat_mean, flat_variance = mean.flatten(0, 1), variance.flatten(0, 1)
    context = 0
    for width, part in zip(basis.widths, values.chunk(len(basis.widths), dim=2)):
        grid = coarse_grid(part.shape[2], width, mean.dtype, mean.device)
        if grid.resample is not None:
            part = grid.resample @ part
        total = flat_variance + grid.width**2
        context = context + GaussianSum.apply(flat_mean, total, part.flatten(0, 1), grid.centers)
    return context.unflatten(0, mean.shape[:2])


def block_queries(centers: Tensor) -> int:
    """How many queries, each with all centres, one block holds."""
    return max(1, BLOCK_ELEMENTS.get(centers.device.type, BLOCK_ELEMENTS_ELSEWHERE) // len(centers))


def _exponent(variance: Tensor) -> Tensor:
    """What a squared distance is multiplied with before ``exp2``, which is three times as fast as ``exp``."""
    return (-0.5 / math.log(2) / variance).unsqueeze(-1)


def _peak(variance: Tensor) -> Tensor:
    return (2 * math.pi * variance).rsqrt().unsqueeze(-1)


def _blocks(mean: Tensor, centers: Tensor) -> list[tuple[slice, slice]]:
    """Several whole rows of queries at a time or, where one is too long, a part of it."""
    rows, queries = mean.shape
    at_once = block_queries(centers)
    row_step, step = max(1, at_once // max(1, queries)), min(at_once, max(1, queries))
    return [
        (slice(row, row + row_step), slice(start, start + step))
        for row in range(0, rows, row_step)
        for start in range(0, queries, step)
    ]
