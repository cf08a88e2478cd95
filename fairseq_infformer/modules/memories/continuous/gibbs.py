"""The Gibbs read: ordinary softmax attention, whose keys and values are a continuous signal."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_infformer.modules.settings import SettingError

from .basis import GaussianBasis
from .signal_attention import SignalAttention


class GibbsDensity(NamedTuple):
    """``p(t) ∝ exp(q·k(t)/√d)``, constant on the cells around evenly spaced positions, the first 0 and the last 1."""

    mean: Tensor  # (B, H, T)
    variance: Tensor  # (B, H, T)
    weights: Tensor  # (B, H, T, G) of each cell; or (B, H, T, 0) where they are not needed

    def cdf(self, t: Tensor) -> Tensor:
        """Mass left of each of the K points ``t`` (K,) of [0, 1], as (B, H, T, K)."""
        count = self.weights.shape[-1]
        left = F.pad(self.weights.cumsum(-1), (1, 0))  # of each edge of a cell
        # Edges are halfway between positions; the first and the last cell are half as wide.
        edge = (t.clamp(0, 1) * (count - 1) + 0.5).clamp(max=count - 0.5)
        cell = edge.long()
        start, stop = (cell - 0.5).clamp(min=0), (cell + 0.5).clamp(max=count - 1)
        inside = (t.clamp(0, 1) * (count - 1) - start) / (stop - start)
        return left[..., cell] + inside * self.weights[..., cell]


class GibbsAttention(SignalAttention):
    """Attention over the signal ``x̄(t) = Θᵀ ψ(t)`` with a Gibbs density (Santos et al. 2025, ∞-Video).

    With keys ``k(t) = W_K x̄(t)`` and values ``v(t) = W_V x̄(t)``, head by head, a query reads ``E_t[v(t)]`` under
    ``p(t) ∝ exp(q·k(t)/√d)``. The integrals over t are sums over the centres of the basis: softmax attention over
    that many vectors. Unlike a Gaussian, the density may have several peaks, as sharp as the signal itself.

    Args:
        embed_dim: C. num_heads: H, a divisor of C unless there is a head_dim.
        basis: the basis of the memory that is read.
        flat_start: start the output projection at random; otherwise it starts at zero.
        weights: return the weights of the density, which sticky sampling needs.
        head_dim: d, the width of a head; absent: C / H.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        basis: GaussianBasis,
        *,
        flat_start: bool = False,
        weights: bool = False,
        head_dim: Optional[int] = None,
    ) -> None:
        super().__init__(embed_dim, num_heads, basis, flat_start, head_dim)
        if basis.num_centers < 2:
            raise SettingError("density", "gibbs needs a basis of 2 centres or more, got 1")
        self.weights = weights

    @torch.no_grad()
    def start_alike(self, query: Tensor) -> None:
        # Same words then attend to each other from the first update on. From random keys that is learned late, in a
        # sudden step that some seeds never take (recipes/recall).
        self.k_proj.weight.copy_(query)

    def forward(self, query: Tensor, coefficients: Tensor) -> tuple[Tensor, GibbsDensity]:
        """Read.

        Args:
            query: (B, T, H · d), the projected queries of all heads side by side.
            coefficients: Θ of each row, (B, N, C), float32 or float64; the signal is evaluated in that.

        Returns:
            context (B, T, C) in the query's dtype, after the output projection; the density, its ``mean`` and
            ``variance`` (B, H, T) without gradients.
        """
        with torch.autocast(query.device.type, enabled=False):
            positions = self.basis.distinct_centers(coefficients)
            signal = self.basis.evaluate_at_centers(coefficients) @ coefficients
        signal = signal.to(query.dtype)
        keys, values, query = (self.split_heads(x) for x in (self.k_proj(signal), self.v_proj(signal), query))
        query = query.to(keys.dtype)
        context, mean, variance = self._attend(query, keys, values, positions)
        weights = self._weights(query, keys)
        context = self.out_proj(context.transpose(1, 2).flatten(2))
        return context, GibbsDensity(mean, variance, weights)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Expectations of the values, of t, and of t² less that of t squared."""
        # t and t² are two values more of each position, from the middle, where they are most exact; fast kernels want
        # as many columns in keys as in values, and a multiple of 8.
        width = values.shape[-1]
        padded = -(-(width + 2) // 8) * 8
        centred = positions - 0.5
        moments = F.pad(torch.stack([centred, centred.square()], dim=-1), (0, padded - width - 2)).to(values)
        values = torch.cat([values, moments.expand(*values.shape[:3], -1)], dim=-1)
        query, keys = (F.pad(x, (0, padded - width)) for x in (query, keys))
        context = F.scaled_dot_product_attention(query, keys, values, scale=width**-0.5)
        first, second = context[..., width : width + 2].detach().to(positions.dtype).unbind(-1)
        return context[..., :width], first + 0.5, (second - first.square()).clamp_min(0)

    @torch.no_grad()
    def _weights(self, query: Tensor, keys: Tensor) -> Tensor:
        if not self.weights:
            return query.new_zeros(*query.shape[:3], 0)
        exact = torch.promote_types(query.dtype, torch.float32)
        return (query @ keys.mT * query.shape[-1] ** -0.5).softmax(-1, dtype=exact)
