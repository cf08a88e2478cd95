"""Transformer-XL attention over the segment and the short-term memory."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoidal_distances(count: int, dim: int, like: Tensor) -> Tensor:
    """Sinusoidal encoding (count, dim) of the distances count-1 … 0, in the dtype and on the device of ``like``."""
    exact = _at_least_float32(like)
    half = (dim + 1) // 2
    frequency = 10000 ** (-torch.arange(half, device=like.device, dtype=exact) / half)
    angle = torch.arange(count - 1, -1, -1, device=like.device, dtype=exact)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :dim].to(like.dtype)


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def relative_shift(scores: Tensor) -> Tensor:
    """Turn scores by distance into scores by key.

    Args:
        scores: (B, H, T, K), column p of query i scored for the distance K-1-p.

    Returns:
        (B, H, T, K), column j of query i for the key j, at distance K-T+i-j; keys after the query hold nonsense.
    """
    batch, heads, queries, keys = scores.shape
    padded = F.pad(scores, (1, 0)).view(batch, heads, keys + 1, queries)
    return padded[:, :, 1:].reshape(batch, heads, queries, keys)


class RelativeAttention(nn.Module):
    """Multi-head attention with relative positions (Transformer-XL, Dai et al. 2019, section 3.3).

    The score of query i and key j is ``(q_i + u)·k_j + (q_i + v)·W_R r_{i-j}``, over √d, with r the sinusoidal
    encoding of the distance and u, v learned for each head.

    Args:
        embed_dim: C. num_heads: H, a divisor of C. dropout: on the attention weights.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(f"embed_dim must be a multiple of num_heads, got {embed_dim} and {num_heads}")
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        self.kv_proj = nn.Linear(embed_dim, 2 * embed_dim, bias=False)
        self.position_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(embed_dim))
        self.position_bias = nn.Parameter(torch.zeros(embed_dim))
        for projection in (self.position_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
        nn.init.xavier_uniform_(self.kv_proj.weight, gain=2**-0.5)

    def forward(self, query: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """Attend.

        Args:
            query: projected queries (B, T, C).
            hidden: (B, K, C), the short-term memory followed by the segment: the last T are the queries' own places.
            mask: bool, broadcasting to (B, 1, T, K), True where a query must not look.

        Returns:
            (B, T, C), after the output projection.
        """
        keys, values = (self._heads(x) for x in self.kv_proj(hidden).chunk(2, dim=-1))
        distances = self.position_proj(sinusoidal_distances(hidden.shape[1], self.embed_dim, hidden))
        by_content = self._heads(query + self.content_bias)
        by_position = self._heads(query + self.position_bias)
        scores = relative_shift(by_position @ self._heads(distances[None]).transpose(2, 3))
        scores = (scores + by_content @ keys.transpose(2, 3)) * (self.embed_dim // self.num_heads) ** -0.5
        weights = torch.softmax(scores.masked_fill(mask, float("-inf")), dim=-1, dtype=_at_least_float32(scores))
        weights = F.dropout(weights.to(values.dtype), self.dropout, self.training)
        return self.out_proj((weights @ values).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
