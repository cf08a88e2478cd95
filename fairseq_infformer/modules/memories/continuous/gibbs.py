"""The Gibbs read: ordinary softmax attention, whose keys and values are a continuous signal."""

from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
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
        query = self.split_heads(query)
        read = self._read_few if 4 * query.shape[2] <= self.head_dim else self._read_many
        context, mean, variance, weights = read(query, signal, positions)
        context = self.out_proj(context.transpose(1, 2).flatten(2))
        return context, GibbsDensity(mean, variance, weights)

    def _read_many(self, query: Tensor, signal: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """Context (B, H, T, d), mean, variance and weights for queries (B, H, T, d) of the signal (B, G, C)."""
        keys, values = self.split_heads(self.k_proj(signal)), self.split_heads(self.v_proj(signal))
        query = query.to(keys.dtype)
        return *self._attend(query, keys, values, positions), self._weights(query, keys)

    def _read_few(self, query: Tensor, signal: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        """The same, faster for few queries, as in generation: they are projected in place of the signal.

        Since ``q·(W_K x) = (W_Kᵀ q)·x``, all heads then have the signal itself as keys and values, and are as one.
        """
        folded = (query @ self._by_head(self.k_proj)).flatten(1, 2)[:, None]  # (B, 1, H · T, C)
        signal = signal.to(folded.dtype)[:, None]
        read = *self._attend(folded, signal, signal, positions), self._weights(folded, signal)
        context, *density = (each[:, 0].unflatten(1, query.shape[1:3]) for each in read)
        return context @ self._by_head(self.v_proj).mT, *density

    def _by_head(self, projection: nn.Linear) -> Tensor:
        """The weight (H, d, C) of a projection."""
        return projection.weight.unflatten(0, (self.num_heads, -1))

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
        context = F.scaled_dot_product_attention(query, keys, values, scale=self.head_dim**-0.5)
        first, second = context[..., width : width + 2].detach().to(positions.dtype).unbind(-1)
        return context[..., :width], first + 0.5, (second - first.square()).clamp_min(0)

    @torch.no_grad()
    def _weights(self, query: Tensor, keys: Tensor) -> Tensor:
        if not self.weights:
            return query.new_zeros(*query.shape[:3], 0)
        exact = torch.promote_types(query.dtype, torch.float32)
        return (query @ keys.mT * self.head_dim**-0.5).softmax(-1, dtype=exact)
