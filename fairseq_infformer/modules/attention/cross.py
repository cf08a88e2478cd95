"""Attention of a decoder to the outputs of an encoder."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import check_heads, split_heads


class CrossAttention(nn.Module):
    """Multi-head attention to the vectors of an encoder (Vaswani et al. 2017, section 3.2.3).

    It gives nothing where there are none.

    Args:
        embed_dim: C. num_heads: H, a divisor of C. dropout: on the attention weights.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.num_heads, self.dropout = num_heads, dropout
        self.q_proj = nn.Linear(embed_dim, embed_dim)
        self.kv_proj = nn.Linear(embed_dim, 2 * embed_dim)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.kv_proj.weight, gain=2**-0.5)
        for projection in (self.q_proj, self.out_proj):
            nn.init.xavier_uniform_(projection.weight)
        for projection in (self.q_proj, self.kv_proj, self.out_proj):
            nn.init.zeros_(projection.bias)

    def forward(self, x: Tensor, encoded: Tensor, lengths: Tensor) -> Tensor:
        """Attend.

        Args:
            x: (B, T, C). encoded: (B, S, C).
            lengths: (B,), on the CPU: how many of the S count, from the left; or (B, T), for each query.

        Returns:
            (B, T, C), after the output projection.
        """
        query, keys, values = (
            split_heads(part, self.num_heads) for part in (self.q_proj(x), *self.kv_proj(encoded).chunk(2, dim=-1))
        )
        lengths = lengths.view(len(x), -1, 1)  # (B, T, 1), or (B, 1, 1)
        # A query that has none attends to the first vector, since a softmax needs one.
        mask = (torch.arange(encoded.shape[1]) < lengths.clamp_min(1)).to(x.device)
        dropout = self.dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, keys, values, mask[:, None], dropout)
        none = (lengths == 0).to(x.device)
        return self.out_proj(context.transpose(1, 2).flatten(2)).masked_fill(none, 0)
