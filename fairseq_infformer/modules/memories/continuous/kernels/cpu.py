"""``Σ_j N(mean_t; c_j, variance_t) V_j`` and its gradients, in blocks that stay in the cache.

The T×n matrix of densities is cheap to compute and expensive to store and to read: it is computed block by block, in
place, and again for the gradients.
"""

import math

import torch
from torch import Tensor

# Elements of one block of densities: on a CPU 1 MiB, so that the passes over it stay within the cache; elsewhere
# enough that starting a pass costs little beside it.
BLOCK_ELEMENTS = {"cpu": 1 << 18}
BLOCK_ELEMENTS_ELSEWHERE = 1 << 24


def gaussian_sum(mean: Tensor, variance: Tensor, values: Tensor, centers: Tensor) -> Tensor:
    """The sum over j.

    Args:
        mean, variance: (R, T), float32 or float64. values: V, (R, n, d). centers: c, (n,).

    Returns:
        (R, T, d).
    """
    context = values.new_empty(*mean.shape, values.shape[-1])
    exponent = _exponent(variance)
    for block in _blocks(mean, centers):
        distance = mean[block].unsqueeze(-1) - centers
        kernel = distance.square_().mul_(exponent[block]).exp2_()
        torch.bmm(kernel, values[block[0]], out=context[block])
    return context.mul_(_peak(variance))


def gaussian_sum_backward(
    grad: Tensor, mean: Tensor, variance: Tensor, values: Tensor, centers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the mean, the variance and the values, from that of the sum, (R, T, d)."""
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
    return -first / variance, 0.5 * (second / variance - zeroth) / variance, grad_values


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
