"""Memformer's attention with relative positions, in a segment that may be read in both directions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import Attention
from .relative import sinusoidal_distances


class SimplifiedRelativeAttention(Attention):
    """Attention with simplified relative positions (Memformer, Wu et al. 2020, equations 2 to 4).

    The score of query i and key j is ``q_i·(k_j + R_{i-j})``, over √d, with ``q_i = W_q x_i + b_q`` and
    ``k_j = W_k x_j + b_k``; the value is ``v_j + R_{i-j}``. Distances have a sign: keys after the query are seen too
    where the mask lets them. The paper's R is a trained vector per distance. Here it is the sinusoidal encoding of the
    distance, projected for each head, so that segments may have any length. Arguments are those of ``Attention``.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__(embed_dim, num_heads, dropout, bias)
        self.position_proj = nn.Linear(embed_dim, embed_dim, bias=False)
        nn.init.xavier_uniform_(self.position_proj.weight)

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        queries, length, width = query.shape[2], keys.shape[2], query.shape[3]
        encoded = sinusoidal_distances(length + queries, self.embed_dim, keys, last=-queries)
        distances = self.split_heads(self.position_proj(encoded))  # (H, K + T, d)
        query = query.to(keys.dtype) * width**-0.5
        scores = query @ keys.mT + by_key(query @ distances.mT)
        exact = torch.promote_types(scores.dtype, torch.float32)
        weights = torch.softmax(scores.masked_fill(mask, -torch.inf), dim=-1, dtype=exact).to(values.dtype)
        weights = F.dropout(weights, self.dropout_now)
        return weights @ values + by_distance(weights) @ distances


def by_key(scores: Tensor) -> Tensor:
    """Scores (..., T, K + T), column p of query i scored for the distance K-1-p, as a view by key.

    Returns:
        (..., T, K), column j of query i for the key j, at distance K-T+i-j: the last query is at the last key.
    """
    queries, columns = scores.shape[-2:]
    # That is column T-1-i+j of query i. In rows that are shorter by one, key j has the same column for all.
    rows = scores.flatten(-2)[..., queries - 1 : queries - 1 + queries * (columns - 1)]
    return rows.unflatten(-1, (queries, columns - 1))[..., : columns - queries]


def by_distance(weights: Tensor) -> Tensor:
    """The transpose of ``by_key``: (..., T, K) by key to (..., T, K + T) by distance."""
    queries, length = weights.shape[-2:]
    rows = F.pad(weights, (0, queries - 1)).flatten(-2)
    return F.pad(rows, (queries - 1, 1)).unflatten(-1, (queries, length + queries))
