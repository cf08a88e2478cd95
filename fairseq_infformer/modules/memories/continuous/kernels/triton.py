"""Triton kernels for ``gaussian_sum``: a tile of densities at a time, in registers, computed again for gradients.

Densities never reach the GPU's memory. Arguments and results are those of ``gaussian_sum``, in float32; products are
in full float32 precision, since positions are finer than TF32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _kernel(distance, variance):
    """``exp(-distance²/2 variance)`` of a tile, (queries, functions)."""
    exponent = -0.7213475204444817 / variance  # in powers of two: ½ log₂ e
    return tl.exp2(distance * distance * exponent[:, None])


@triton.jit
def _peak(variance):
    return tl.rsqrt(variance * 6.283185307179586)[:, None]


@triton.jit
def _vectors(row, index, size, dim, BLOCK_D: tl.constexpr):
    """Offsets in a (R, size, dim) tensor of the vectors ``index`` of row ``row``, and which of them exist."""
    column = tl.arange(0, BLOCK_D)
    offsets = (row * size + index)[:, None] * dim + column[None, :]
    return offsets, (index < size)[:, None] & (column < dim)[None, :]


@triton.jit
def _forward(
    mean_ptr, variance_ptr, value_ptr, center_ptr, out_ptr, queries, functions, dim,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(queries, BLOCK)
    row, query = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    at_query, query_mask = _vectors(row, query, queries, dim, BLOCK_D)
    mean = tl.load(mean_ptr + row * queries + query, query < queries, 0.0)
    variance = tl.load(variance_ptr + row * queries + query, query < queries, 1.0)
    context = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for first in range(0, functions, BLOCK):
        function = first + tl.arange(0, BLOCK)
        center = tl.load(center_ptr + function, function < functions, 0.0)
        at_function, function_mask = _vectors(row, function, functions, dim, BLOCK_D)
        value = tl.load(value_ptr + at_function, function_mask, 0.0)
        kernel = _kernel(mean[:, None] - center[None, :], variance)
        context += tl.dot(kernel, value, input_precision="ieee")
    tl.store(out_ptr + at_query, context * _peak(variance), query_mask)


@triton.jit
def _backward_queries(
    grad_ptr, mean_ptr, variance_ptr, value_ptr, center_ptr, grad_mean_ptr, grad_variance_ptr, queries, functions, dim,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(queries, BLOCK)
    row, query = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    at_query, query_mask = _vectors(row, query, queries, dim, BLOCK_D)
    mean = tl.load(mean_ptr + row * queries + query, query < queries, 0.0)
    variance = tl.load(variance_ptr + row * queries + query, query < queries, 1.0)
    weighted = tl.load(grad_ptr + at_query, query_mask, 0.0) * _peak(variance)
    zeroth = tl.zeros((BLOCK,), tl.float32)
    first_moment = tl.zeros((BLOCK,), tl.float32)
    second = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, functions, BLOCK):
        function = first + tl.arange(0, BLOCK)
        center = tl.load(center_ptr + function, function < functions, 0.0)
        at_function, function_mask = _vectors(row, function, functions, dim, BLOCK_D)
        value = tl.load(
            value_ptr + at_function, function_mask, 0.0
        )  # zero beyond the last function, and so is the product
        distance = mean[:, None] - center[None, :]
        product = _kernel(distance, variance) * tl.dot(weighted, tl.trans(value), input_precision="ieee")
        zeroth += tl.sum(product, 1)
        first_moment += tl.sum(product * distance, 1)
        second += tl.sum(product * distance * distance, 1)
    numbers = row * queries + query
    tl.store(grad_mean_ptr + numbers, -first_moment / variance, query < queries)
    tl.store(grad_variance_ptr + numbers, 0.5 * (second / variance - zeroth) / variance, query < queries)


@triton.jit
def _backward_values(
    grad_ptr, mean_ptr, variance_ptr, center_ptr, grad_value_ptr, queries, functions, dim,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(functions, BLOCK)
    row, function = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    center = tl.load(center_ptr + function, function < functions, 0.0)
    grad_value = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    for start in range(0, queries, BLOCK):
        query = start + tl.arange(0, BLOCK)
        mean = tl.load(mean_ptr + row * queries + query, query < queries, 0.0)
        variance = tl.load(variance_ptr + row * queries + query, query < queries, 1.0)
        at_query, query_mask = _vectors(row, query, queries, dim, BLOCK_D)
        weighted = tl.load(grad_ptr + at_query, query_mask, 0.0) * _peak(variance)
        kernel = _kernel(mean[:, None] - center[None, :], variance)
        grad_value += tl.dot(tl.trans(kernel), weighted, input_precision="ieee")
    at_function, function_mask = _vectors(row, function, functions, dim, BLOCK_D)
    tl.store(grad_value_ptr + at_function, grad_value, function_mask)


def gaussian_sum(mean: Tensor, variance: Tensor, values: Tensor, centers: Tensor) -> Tensor:
    """As ``gaussian_sum.gaussian_sum``, in float32."""
    mean, variance, values, centers = (x.contiguous() for x in (mean, variance, values, centers))
    (rows, queries), (_, functions, dim) = mean.shape, values.shape
    context = values.new_empty(rows, queries, dim)
    tile = _tile(dim)
    if context.numel():
        grid = (rows * triton.cdiv(queries, tile["BLOCK"]),)
        with torch.cuda.device_of(values):
            _forward[grid](mean, variance, values, centers, context, queries, functions, dim, **tile)
    return context


def gaussian_sum_backward(
    grad: Tensor, mean: Tensor, variance: Tensor, values: Tensor, centers: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``gaussian_sum.gaussian_sum_backward``, in float32."""
    grad, mean, variance, values, centers = (x.contiguous() for x in (grad, mean, variance, values, centers))
    (rows, queries), (_, functions, dim) = mean.shape, values.shape
    grad_mean, grad_variance, grad_values = (torch.empty_like(x) for x in (mean, variance, values))
    sizes, tile = (queries, functions, dim), _tile(dim)
    with torch.cuda.device_of(values):
        if mean.numel():
            grid = (rows * triton.cdiv(queries, tile["BLOCK"]),)
            inputs = (grad, mean, variance, values, centers)
            _backward_queries[grid](*inputs, grad_mean, grad_variance, *sizes, **tile)
        if values.numel():
            grid = (rows * triton.cdiv(functions, tile["BLOCK"]),)
            _backward_values[grid](grad, mean, variance, centers, grad_values, *sizes, **tile)
    return grad_mean, grad_variance, grad_values


def _tile(dim: int) -> dict[str, int]:
    """Sizes of a tile: powers of two, 16 at least, that leave room in the registers."""
    width = max(16, triton.next_power_of_2(dim))
    return {"BLOCK": 64 if width <= 64 else 32 if width <= 128 else 16, "BLOCK_D": width}
