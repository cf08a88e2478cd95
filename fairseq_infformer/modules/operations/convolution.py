"""Convolutions over the sequence: each vector with its neighbours, or with those before it alone."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.attention import check_heads

from .base import Operation, Sizes, Surroundings, register_operation


class _Windowed(Operation):
    """An operation on windows of ``kernel`` vectors, an odd number: around each vector, or causally before it.

    Past the ends of the sequence, and at pads, there are zeros.
    """

    def __init__(self, sizes: Sizes, causal: bool, *, kernel: int) -> None:
        super().__init__(sizes, causal)
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        self.kernel = kernel

    def forward(self, x: Tensor, surroundings: Surroundings) -> Tensor:
        values = self.values(x)
        if surroundings.pads is not None:
            values = values.masked_fill(surroundings.pads[:, :, None], 0)
        reach = self.kernel - 1
        if surroundings.cache is None or not self.causal:
            left = reach if self.causal else reach // 2
            values = F.pad(values, (0, 0, left, reach - left))
        else:
            before = surroundings.cache.get(self)
            before = F.pad(values[:, :0], (0, 0, reach, 0)) if before is None else before[0]
            values = torch.cat([before, values], dim=1)
            surroundings.cache[self] = (values[:, values.shape[1] - reach :],)
        return self.convolve(x, values)

    def values(self, x: Tensor) -> Tensor:
        """What is convolved, (B, T, w), computed vector by vector."""
        return x

    @abstractmethod
    def convolve(self, x: Tensor, values: Tensor) -> Tensor:
        """(B, T, w) for the values (B, T + kernel − 1, w), of which ``kernel`` from the tth on are the tth window."""


@register_operation("convolution-3", kernel=3)
@register_operation("convolution-5", kernel=5)
@register_operation("convolution-7", kernel=7)
@register_operation("convolution-11", kernel=11)
class Convolution(_Windowed):
    """An ordinary convolution of all channels."""

    def __init__(self, sizes: Sizes, causal: bool, *, kernel: int) -> None:
        super().__init__(sizes, causal, kernel=kernel)
        self.conv = nn.Conv1d(sizes.width, sizes.width, kernel)

    def convolve(self, x: Tensor, values: Tensor) -> Tensor:
        return self.conv(values.mT).mT


@register_operation("dynamic-convolution-3", kernel=3)
@register_operation("dynamic-convolution-7", kernel=7)
@register_operation("dynamic-convolution-11", kernel=11)
@register_operation("dynamic-convolution-15", kernel=15)
class DynamicConvolution(_Windowed):
    """A convolution whose kernel each vector computes, one per head (Wu et al. 2019): a softmax over the window.

    A gated linear unit comes before it and a projection after it.
    """

    def __init__(self, sizes: Sizes, causal: bool, *, kernel: int) -> None:
        super().__init__(sizes, causal, kernel=kernel)
        check_heads(sizes.width, sizes.heads)
        self.heads = sizes.heads
        self.in_proj = nn.Linear(sizes.width, 2 * sizes.width)
        self.kernel_proj = nn.Linear(sizes.width, sizes.heads * kernel, bias=False)
        self.out_proj = nn.Linear(sizes.width, sizes.width)

    def values(self, x: Tensor) -> Tensor:
        return F.glu(self.in_proj(x))

    def convolve(self, x: Tensor, values: Tensor) -> Tensor:
        kernels = self.kernel_proj(x).unflatten(-1, (self.heads, self.kernel)).softmax(-1)  # (B, T, H, kernel)
        windows = values.unfold(1, self.kernel, 1).unflatten(2, (self.heads, -1))  # (B, T, H, w / H, kernel)
        return self.out_proj((windows @ kernels[..., None]).squeeze(-1).flatten(2))
