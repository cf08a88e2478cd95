"""The expectation of a continuous signal under Gaussians: ``z_t = Σ_j N(μ_t; c_j, σ_t² + s_j²) V_j``.

Width by width, the sum and its gradients come from ``gaussian_sum``, or from its Triton kernels on a GPU, unless the
environment has ``INFFORMER_TRITON=0``. It is one operator to PyTorch, so that ``torch.compile`` and ``torch.export``
take it as it is.
"""

import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import Optional

import torch
from torch import Tensor

from fairseq_infformer.modules.memories.continuous.basis import GaussianFunctions

from . import cpu

logger = logging.getLogger(__name__)

# Widest head that a tile of the Triton kernels leaves room for.
TRITON_DIM = 256


def gaussian_read(mean: Tensor, variance: Tensor, values: Tensor, basis: GaussianFunctions) -> Tensor:
    """``E_t[Σ_j ψ_j(t) V_j]`` under ``t ~ N(mean, variance)`` (paper, equations 11 and 12).

    Args:
        mean, variance: (B, H, T), float32 or float64.
        values: V of each head, (B, H, N, d), of the same dtype.

    Returns:
        (B, H, T, d). Gradients of the first order flow to all three.
    """
    counts, widths = zip(*basis.by_width())
    flat = (x.flatten(0, 1) for x in (mean, variance, values))
    return _read(*flat, basis.grid_like(mean)[0], counts, widths).unflatten(0, mean.shape[:2])


@torch.library.custom_op("fairseq_infformer::gaussian_read", mutates_args=())
def _read(
    mean: Tensor, variance: Tensor, values: Tensor, centers: Tensor, counts: Sequence[int], widths: Sequence[float]
) -> Tensor:
    kernels = _kernels(values)
    context = values.new_zeros(*mean.shape, values.shape[-1])
    for width, part, at in zip(widths, values.split(counts, dim=1), centers.split(counts)):
        context += kernels.gaussian_sum(mean, variance + width**2, part, at)
    return context


@torch.library.custom_op("fairseq_infformer::gaussian_read_backward", mutates_args=())
def _read_backward(
    grad: Tensor,
    mean: Tensor,
    variance: Tensor,
    values: Tensor,
    centers: Tensor,
    counts: Sequence[int],
    widths: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = _kernels(values)
    grad_mean, grad_variance, by_part = torch.zeros_like(mean), torch.zeros_like(variance), []
    for width, part, at in zip(widths, values.split(counts, dim=1), centers.split(counts)):
        for_mean, for_variance, for_part = kernels.gaussian_sum_backward(grad, mean, variance + width**2, part, at)
        grad_mean += for_mean
        grad_variance += for_variance
        by_part.append(for_part)
    return grad_mean, grad_variance, torch.cat(by_part, dim=1)


@_read.register_fake
def _(mean, variance, values, centers, counts, widths):
    return values.new_empty(*mean.shape, values.shape[-1])


@_read_backward.register_fake
def _(grad, mean, variance, values, centers, counts, widths):
    return torch.empty_like(mean), torch.empty_like(variance), torch.empty_like(values)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.counts, ctx.widths = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx, grad: Tensor):
    return *_read_backward(grad, *ctx.saved_tensors, ctx.counts, ctx.widths), None, None, None


_read.register_autograd(_gradients, setup_context=_save)


def _kernels(values: Tensor) -> ModuleType:
    """The module whose ``gaussian_sum`` and ``gaussian_sum_backward`` suit ``values``."""
    fits = values.is_cuda and values.dtype == torch.float32 and values.shape[-1] <= TRITON_DIM
    return (fits and triton_kernels(values.device)) or cpu


@lru_cache
def triton_kernels(device: torch.device) -> Optional[ModuleType]:
    """The Triton kernels, unless they are switched off or a first sum on ``device`` fails, which is logged."""
    if os.environ.get("INFFORMER_TRITON") == "0":
        return None
    try:
        from . import triton

        row = torch.ones(1, 1, device=device)
        vector, center = row[None], row[0]
        triton.gaussian_sum_backward(triton.gaussian_sum(row, row, vector, center), row, row, vector, center)
    except Exception as error:  # no Triton, no compiler, a card that it does not know: all are slower, none is wrong
        logger.warning("reading without Triton on %s: %s: %s", device, type(error).__name__, error)
        return None
    return triton
