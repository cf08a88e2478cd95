"""Reading a continuous memory: each query lays a density over [0, 1] and takes the expectation of the values."""

from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairseq_infformer.modules.settings import SettingError, check_choice, renamed

from .basis import GaussianBasis
from .coarse_basis import CoarseBasis
from .density import Density, find_density
from .settings import ADDRESSINGS, ContinuousSettings
from .signal_attention import SignalAttention

# The floor of a variance that is to have none.
LEAST_VARIANCE = 1e-12


class ContinuousAttention(SignalAttention):
    """Continuous attention over the signal ``x̄(t) = Θᵀ ψ(t)`` (paper, section 3.1, equations 8 to 12).

    With keys ``K = Θ W_K`` and values ``V = Θ W_V``, head by head, a query reads ``z = E_t[V(t)] = Vᵀ r`` with
    ``r = E_t[ψ(t)]``, under a density whose mean and variance it gets in one of these ways:

    - ``projection``, the paper's: ``μ = sigmoid(w_μᵀ K q/√d + a)`` and ``σ² = σ_min² + softplus(w_σᵀ K q/√d + b)``.
      Neither K (N×C) nor the scores (T×N) are ever formed: both are linear in K, so the memory is folded with the two
      N-vectors first. The paper's form is ``min_sigma=0, flat_start=True``: no offsets ``a``, ``b``, no floor on σ.
    - ``content``: ``μ = Σ_g p_g t_g`` and ``σ² = σ_min² + Σ_g p_g (t_g − μ)²`` with ``p = softmax(k(t_g)·q/√d)``, the
      moments of ordinary attention over the signal's keys ``k(t) = W_Kᵀ x̄(t)`` at the centres of the basis. A query
      that matches one position reads there, one that matches none averages the whole memory. By projection, the small
      random scores of all N functions add up, and move μ as much as the position that is sought.
    - ``mixed``: content in heads 0, 2, 4 …, projection in the others.

    Args:
        embed_dim: C. num_heads: H, a divisor of C unless there is a head_dim.
        basis: the basis of the memory that is read.
        density: one of DENSITIES.
        min_sigma: σ_min, in units of the interval; -1: the narrowest width of the basis, below which the memory
            resolves nothing.
        flat_start: start the output projection at random and, by projection, every head at μ = ½ and
            σ = √softplus(0) = 0.83. Otherwise the output projection starts at zero, and each head learns an offset of
            its projected μ and σ²; at the start, heads 0, 2, 4 … average the whole memory and the others tile it.
        addressing: one of ADDRESSINGS.
        head_dim: d, the width of a head; absent: C / H.
    """

    mean_proj: Optional[nn.Linear]  # N to 1; None, and so the others, if addressing is by content
    variance_proj: Optional[nn.Linear]
    mean_offset: Optional[nn.Parameter]  # (H,)
    variance_offset: Optional[nn.Parameter]  # (H,)

    @renamed(min_width="min_sigma", head_start="not flat_start")
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        basis: GaussianBasis,
        density: str = ContinuousSettings.density,
        *,
        min_sigma: float = ContinuousSettings.min_sigma,
        flat_start: bool = ContinuousSettings.flat_start,
        addressing: str = ContinuousSettings.addressing,
        head_dim: Optional[int] = None,
    ) -> None:
        super().__init__(embed_dim, num_heads, basis, flat_start, head_dim)
        check_choice("addressing", addressing, ADDRESSINGS)
        min_sigma = min(basis.widths) if min_sigma == -1 else min_sigma
        if not 0 <= min_sigma < 1:
            raise SettingError("min_sigma", f"must lie in [0, 1), or be -1 for the narrowest width, got {min_sigma}")
        self.min_sigma, self.addressing, self.density = min_sigma, addressing, find_density(density)
        self.coarse_basis = CoarseBasis(basis)
        self.mean_proj = self.variance_proj = self.mean_offset = self.variance_offset = None
        if addressing != "content":
            self.mean_proj = nn.Linear(basis.num_basis, 1, bias=False)
            self.variance_proj = nn.Linear(basis.num_basis, 1, bias=False)
        # Parameters of the density beyond mean and variance, which content does not give.
        further = len(self.density._fields) - 2
        if further and addressing != "projection":
            raise SettingError("addressing", f"must be projection for the density {density}, got {addressing}")
        self.further_proj = nn.Linear(basis.num_basis, further, bias=False) if further else None
        if addressing != "content" and not flat_start:
            # Even heads start as a flat average of the whole memory, odd heads with a tile of it each.
            means = torch.full((num_heads,), 0.5)
            means[1::2] = (torch.arange(num_heads // 2) + 0.5) / max(1, num_heads // 2)
            sigmas = torch.full((num_heads,), max(0.5, 2 * min_sigma))
            sigmas[1::2] = max(0.5 / num_heads, 2 * min_sigma)
            # The inverse of softplus is log(expm1(y)).
            self.mean_offset = nn.Parameter(torch.logit(means))
            self.variance_offset = nn.Parameter((sigmas**2 - min_sigma**2).expm1().log())

    def forward(self, query: Tensor, coefficients: Tensor) -> tuple[Tensor, Density]:
        """Read.

        Args:
            query: (B, T, H · d), the projected queries of all heads side by side.
            coefficients: Θ of each row, (B, N, C); they are used in float32 or float64, whatever the query's dtype.

        Returns:
            context (B, T, C) in the query's dtype, after the output projection; the density, its ``mean`` and
            ``variance`` (B, H, T).

        Raises:
            ValueError: if the shapes do not fit each other or the module.
        """
        self._check(query, coefficients)
        with torch.autocast(query.device.type, enabled=False):  # positions are finer than half precision
            density = self.locate(query, coefficients)
            coarse = self.coarse_basis.resample(coefficients)  # the same signal in fewer numbers
            values = self.split_heads(F.linear(coarse, self.v_proj.weight.to(coefficients.dtype)))
            context = density.read(values, self.coarse_basis)  # (B, H, T, d)
        return self.out_proj(context.transpose(1, 2).flatten(2).to(query.dtype)), density

    def locate(self, query: Tensor, coefficients: Tensor) -> Density:
        """The density of each head and query, from the arguments of ``forward``."""
        query = self.split_heads(query.to(coefficients.dtype))
        further: tuple[Tensor, ...] = ()
        if self.addressing == "content":
            mean, variance = self._by_content(query, coefficients)
        elif self.addressing == "projection":
            mean, variance, *further = self._by_projection(query, coefficients)
        else:
            even, odd = slice(0, None, 2), slice(1, None, 2)
            parts = self._by_content(query, coefficients, even), self._by_projection(query, coefficients, odd)
            mean, variance = (self._interleaved(*pair) for pair in zip(*parts))
        # If all attention is at one position the variance is 0: the density would be degenerate, and the gradient of
        # the square root infinite.
        return self.density(mean, (variance + self.min_sigma**2).clamp_min(LEAST_VARIANCE), *further)

    def _by_projection(self, query: Tensor, coefficients: Tensor, heads: slice = slice(None)) -> tuple[Tensor, ...]:
        """Mean, variance, and the logits of the density's further parameters."""
        exact = coefficients.dtype
        projections = [p for p in (self.mean_proj, self.variance_proj, self.further_proj) if p is not None]
        folded = torch.cat([projection.weight for projection in projections]).to(exact) @ coefficients
        scale = self.head_dim**-0.5
        logits = query[:, heads] @ (self._keys(folded, heads) * scale).transpose(2, 3)  # (B, H, T, 2 and further)
        if self.mean_offset is not None:
            offsets = torch.stack([self.mean_offset, self.variance_offset], dim=-1).to(exact)
            logits = logits + F.pad(offsets[heads, None], (0, logits.shape[-1] - 2))
        mean, variance, *further = logits.unbind(-1)
        return torch.sigmoid(mean), F.softplus(variance), *further

    def _by_content(self, query: Tensor, coefficients: Tensor, heads: slice = slice(None)) -> tuple[Tensor, Tensor]:
        positions = self.basis.distinct_centers(coefficients)
        keys = self._keys(self.basis.evaluate(positions) @ coefficients, heads)
        # Attention whose values are t and t², from the middle, where they are most exact; as many columns as the keys
        # have, for which it has its fast paths.
        centred = positions - 0.5
        moments = torch.stack([centred, centred.square()], dim=-1)
        moments = F.pad(moments, (0, max(0, keys.shape[-1] - 2))).expand(*keys.shape[:2], -1, -1)
        first, second = F.scaled_dot_product_attention(query[:, heads], keys, moments)[..., :2].unbind(-1)
        return first + 0.5, (second - first.square()).clamp_min(0)

    def _keys(self, signal: Tensor, heads: slice) -> Tensor:
        weight = self.k_proj.weight.to(signal).unflatten(0, (self.num_heads, -1))[heads]
        return F.linear(signal, weight.flatten(0, 1)).unflatten(-1, weight.shape[:2]).transpose(1, 2)

    def _interleaved(self, even: Tensor, odd: Tensor) -> Tensor:
        odd = F.pad(odd, (0, 0, 0, self.num_heads % 2))  # of an odd number of heads, one more is even
        return torch.stack([even, odd], dim=2).flatten(1, 2)[:, : self.num_heads]

    def _check(self, query: Tensor, coefficients: Tensor) -> None:
        if query.dim() != 3 or query.shape[-1] != self.num_heads * self.head_dim:
            raise ValueError(f"query must be (batch, time, {self.num_heads * self.head_dim}), got {tuple(query.shape)}")
        expected = (query.shape[0], self.basis.num_basis, self.embed_dim)
        if tuple(coefficients.shape) != expected:
            raise ValueError(f"coefficients must be {expected}, got {tuple(coefficients.shape)}")
