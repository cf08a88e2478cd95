"""The expectation of a continuous signal under Gaussians, without storing the basis' expectations.

``z_t = Σ_j N(μ_t; c_j, σ_t² + s_j²) V_j`` needs a T×N matrix that is cheap to compute and dear to store and to pass
over. It is made in blocks of basis functions that stay in the cache, in place, and made again for the gradients.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .basis import GaussianBasis

# Elements of one block of expectations: a few MiB, so that the passes over it stay within the cache.
BLOCK_ELEMENTS = 1 << 18


class GaussianRead(torch.autograd.Function):
    """Forward and backward over blocks; see ``gaussian_read``."""

    @staticmethod
    def forward(ctx, mean: Tensor, variance: Tensor, values: Tensor, centers: Tensor, widths: tuple[float, ...]):
        ctx.save_for_backward(mean, variance, values, centers)
        ctx.widths = widths
        context = values.new_zeros(*mean.shape, values.shape[-1])
        per_width = torch.empty_like(context)
        for number, width in enumerate(widths):
            total = variance + width**2
            exponent = (-0.5 / total).unsqueeze(-1)
            per_width.zero_()
            for block in _blocks(mean, centers):
                distance = mean.unsqueeze(-1) - centers[block]
                kernel = distance.square_().mul_(exponent).exp_()
                per_width.baddbmm_(kernel, values[:, _offset(block, number * len(centers))])
            context.addcmul_(per_width, _peak(total).unsqueeze(-1))
        return context

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        mean, variance, values, centers = ctx.saved_tensors
        grad_mean, grad_variance = torch.zeros_like(mean), torch.zeros_like(variance)
        grad_values = torch.empty_like(values)
        for number, width in enumerate(ctx.widths):
            total = variance + width**2
            exponent = (-0.5 / total).unsqueeze(-1)
            weighted = grad * _peak(total).unsqueeze(-1)
            # With p_j = (weighted · V_j) exp(…): the sums of p, p·distance and p·distance² over the functions.
            zeroth, first, second = (torch.zeros_like(mean) for _ in range(3))
            for block in _blocks(mean, centers):
                columns = _offset(block, number * len(centers))
                distance = mean.unsqueeze(-1) - centers[block]
                kernel = distance.square().mul_(exponent).exp_()
                grad_values[:, columns] = kernel.transpose(1, 2) @ weighted
                product = kernel.mul_(weighted @ values[:, columns].transpose(1, 2))
                zeroth += product.sum(-1)
                product.mul_(distance)
                first += product.sum(-1)
                second += product.mul_(distance).sum(-1)
            grad_mean -= first / total
            grad_variance += 0.5 * (second / total - zeroth) / total
        return grad_mean, grad_variance, grad_values, None, None


def gaussian_read(mean: Tensor, variance: Tensor, values: Tensor, basis: GaussianBasis) -> Tensor:
    """``E_t[Σ_j ψ_j(t) V_j]`` under ``t ~ N(mean, variance)`` (paper, equations 11 and 12).

    Args:
        mean, variance: (B, H, T), float32 or float64.
        values: V of each head, (B, H, N, d), of the same dtype.

    Returns:
        (B, H, T, d). Gradients of the first order flow to all three.
    """
    centers = basis.grid_like(mean)[0][: basis.num_basis // len(basis.widths)]
    flat = GaussianRead.apply(mean.flatten(0, 1), variance.flatten(0, 1), values.flatten(0, 1), centers, basis.widths)
    return flat.unflatten(0, mean.shape[:2])


def _peak(variance: Tensor) -> Tensor:
    return (2 * math.pi * variance).rsqrt()


def _blocks(mean: Tensor, centers: Tensor) -> list[slice]:
    size = max(8, BLOCK_ELEMENTS // max(1, mean.numel()))
    return [slice(start, min(start + size, len(centers))) for start in range(0, len(centers), size)]


def _offset(block: slice, by: int) -> slice:
    return slice(block.start + by, block.stop + by)
